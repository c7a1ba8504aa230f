//! The messages of RFC 4120 that an acceptor and an initiator need, as they are on the wire.

use super::etype::{BLOCK_LEN, Etype, Key};
use crate::Entropy;
use crate::der::{Der, SEQUENCE, WriteDer, application};
use dtyp::{DecodeError, DecodeErrorKind, FileTime};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

type Result<T> = std::result::Result<T, DecodeError>;

/// Components of one principal; service principals of Active Directory have at most three.
pub(crate) const COMPONENTS_MAX: usize = 16;
/// Bytes of a principal's name and of a realm: a name of Active Directory has at most 260 characters. Names
/// come into the log before the client has proved anything.
const NAME_LEN_MAX: usize = 1024;
/// Elements of one list of authorization data: KDCs send one to three, an authenticator of Windows four.
const AUTHORIZATION_DATA_MAX: usize = 64;
/// Addresses of one ticket, which do not count.
const ADDRESSES_MAX: usize = 64;

/// Name types of RFC 4120 6.2.
pub(crate) const NT_PRINCIPAL: i32 = 1;
pub(crate) const NT_SRV_INST: i32 = 2;

/// KRB_AP_REQ: the client wants an answer.
pub(crate) const AP_MUTUAL_REQUIRED: u32 = 0x2000_0000;
/// KRB_AP_REQ: the ticket is encrypted under a session key (user-to-user).
pub(crate) const AP_USE_SESSION_KEY: u32 = 0x4000_0000;

/// TicketFlags: not valid before it was validated.
pub(crate) const TICKET_INVALID: u32 = 1 << (31 - 7);
/// TicketFlags: the client is anonymous (RFC 8062 3).
pub(crate) const TICKET_ANONYMOUS: u32 = 1 << (31 - 16);
/// TicketFlags: the KDC has checked the transited realms.
pub(crate) const TICKET_TRANSITED_POLICY_CHECKED: u32 = 1 << (31 - 12);

/// Authorization data: elements that a server may ignore if it does not know them.
pub(crate) const AD_IF_RELEVANT: i32 = 1;
/// Authorization data: a PAC.
pub(crate) const AD_WIN2K_PAC: i32 = 128;

/// PrincipalName, with its realm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The realm.
    pub realm: String,
    /// The name type (RFC 4120 6.2), which is only a hint.
    pub name_type: i32,
    /// The components.
    pub components: Vec<String>,
}

impl Principal {
    /// A principal of `class/host` or `user`, with an optional `@REALM`; otherwise of `realm`. A backslash
    /// takes its meaning from a `/` or `@`. `None` if a component or the realm is empty.
    pub fn parse(text: &str, realm: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let mut has_realm = false;
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => parts.last_mut()?.push(rest.next()?),
                '/' if !has_realm => parts.push(String::new()),
                '@' if !has_realm => {
                    has_realm = true;
                    parts.push(String::new());
                }
                '@' | '\0' => return None,
                c => parts.last_mut()?.push(c),
            }
        }
        let realm = if has_realm { parts.pop()? } else { realm.to_owned() };
        let components = parts;
        let is_complete = !realm.is_empty() && components.iter().all(|component| !component.is_empty());
        let name_type = if components.len() > 1 { NT_SRV_INST } else { NT_PRINCIPAL };
        is_complete.then_some(Self { realm, name_type, components })
    }

    /// The ticket-granting service of a realm.
    pub fn ticket_granting(realm: &str) -> Self {
        let components = vec!["krbtgt".to_owned(), realm.to_owned()];
        Self { realm: realm.to_owned(), name_type: NT_SRV_INST, components }
    }

    /// The components joined by `/`, with a backslash before each `/`, `@` and backslash of a component, so
    /// that no two names look the same.
    pub fn name(&self) -> String {
        let escaped = self.components.iter().map(|component| escape(component, &['/', '@', '\\']));
        escaped.collect::<Vec<_>>().join("/")
    }

    /// The components joined by `/` as they are, as a PAC has the client's name.
    pub(crate) fn unescaped_name(&self) -> String {
        self.components.join("/")
    }

    /// Whether this is the anonymous principal or one of the anonymous realm (RFC 8062 3).
    pub(crate) fn is_anonymous(&self) -> bool {
        self.realm == "WELLKNOWN:ANONYMOUS" || self.components == ["WELLKNOWN", "ANONYMOUS"]
    }

    /// Whether both name the same service. Active Directory does not tell upper from lower case.
    pub(crate) fn is_same_service(&self, other: &Self) -> bool {
        self.realm.eq_ignore_ascii_case(&other.realm) && self.has_same_components(other)
    }

    fn has_same_components(&self, other: &Self) -> bool {
        self.components.len() == other.components.len()
            && self.components.iter().zip(&other.components).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    /// Whether `service`, as `class/host` or `class/host@REALM`, names this principal.
    pub(crate) fn is_service(&self, service: &str) -> bool {
        let name = self.name();
        service.eq_ignore_ascii_case(&name) || service.eq_ignore_ascii_case(&format!("{name}@{}", self.realm))
    }

    fn read(der: &mut Der<'_>, what: &'static str) -> Result<(i32, Vec<String>)> {
        der.sequence(what, |name| {
            let name_type = name.field(0, "name-type", Der::i32)?;
            let components =
                name.field(1, "name-string", |list, what| list.list(what, COMPONENTS_MAX, Der::text))?;
            let len: usize = components.iter().map(String::len).sum();
            match components.is_empty() {
                true => Err(name.error(what, DecodeErrorKind::BadValue)),
                false if len > NAME_LEN_MAX => Err(name.error(what, DecodeErrorKind::TooLong)),
                false => Ok((name_type, components)),
            }
        })
    }

    pub(crate) fn write_name(&self, out: &mut Vec<u8>) {
        out.element(SEQUENCE, |out| {
            out.field(0, |out| out.integer(self.name_type.into()));
            out.field(1, |out| {
                out.element(SEQUENCE, |out| self.components.iter().for_each(|component| out.text(component)));
            });
        });
    }
}

fn realm(der: &mut Der<'_>, what: &'static str) -> Result<String> {
    let too_long = der.error(what, DecodeErrorKind::TooLong);
    der.text(what).and_then(|realm| if realm.len() > NAME_LEN_MAX { Err(too_long) } else { Ok(realm) })
}

fn principal(realm: String, (name_type, components): (i32, Vec<String>)) -> Principal {
    Principal { realm, name_type, components }
}

fn escape(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if special.contains(&c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// The name and the realm, as [`Principal::name`] writes it and behind an `@`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name(), self.realm)
    }
}

/// EncryptedData.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedData {
    /// The encryption type, by its number.
    pub etype: i32,
    /// The version of the key.
    pub kvno: Option<u32>,
    /// The ciphertext.
    pub cipher: Vec<u8>,
}

impl EncryptedData {
    /// Encrypts under a key of the connection, which has no version.
    pub(crate) fn seal(key: &Key, usage: u32, plain: &[u8], entropy: Entropy<'_>) -> Self {
        let mut confounder = [0; BLOCK_LEN];
        entropy(&mut confounder);
        let cipher = key.encrypt(usage, confounder, plain);
        Self { etype: key.etype().number(), kvno: None, cipher }
    }

    fn read(der: &mut Der<'_>, what: &'static str) -> Result<Self> {
        der.sequence(what, |data| {
            Ok(Self {
                etype: data.field(0, "etype", Der::i32)?,
                kvno: data.optional(1, "kvno", Der::u32)?,
                cipher: data.field(2, "cipher", Der::octets)?.to_vec(),
            })
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.element(SEQUENCE, |out| {
            out.field(0, |out| out.integer(self.etype.into()));
            if let Some(kvno) = self.kvno {
                out.field(1, |out| out.integer(kvno.into()));
            }
            out.field(2, |out| out.octets(&self.cipher));
        });
    }
}

/// EncryptionKey of a type that may be unknown. It wipes itself, compares in constant time and prints its
/// type only.
#[derive(Clone)]
pub struct EncryptionKey {
    /// The encryption type, by its number.
    pub etype: i32,
    /// The key.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl PartialEq for EncryptionKey {
    fn eq(&self, other: &Self) -> bool {
        self.etype == other.etype && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

impl Eq for EncryptionKey {}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionKey {{ {}, [redacted] }}", self.etype)
    }
}

impl From<&Key> for EncryptionKey {
    fn from(key: &Key) -> Self {
        Self { etype: key.etype().number(), bytes: Zeroizing::new(key.expose().to_vec()) }
    }
}

impl EncryptionKey {
    /// The key; `None` if its type is not used here, or its length is not that type's.
    pub fn key(&self) -> Option<Key> {
        Key::new(Etype::from_number(self.etype)?, &self.bytes)
    }

    fn read(der: &mut Der<'_>, what: &'static str) -> Result<Self> {
        der.sequence(what, |key| {
            Ok(Self {
                etype: key.field(0, "keytype", Der::i32)?,
                bytes: Zeroizing::new(key.field(1, "keyvalue", Der::octets)?.to_vec()),
            })
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_typed(out, self.etype, &self.bytes);
    }
}

/// A number in `[0]` and bytes in `[1]`: the form of keys, checksums, authorization data and addresses.
fn write_typed(out: &mut Vec<u8>, number: i32, bytes: &[u8]) {
    out.element(SEQUENCE, |out| {
        out.field(0, |out| out.integer(number.into()));
        out.field(1, |out| out.octets(bytes));
    });
}

fn read_typed(der: &mut Der<'_>, what: &'static str) -> Result<(i32, Vec<u8>)> {
    der.sequence(what, |typed| {
        Ok((typed.field(0, what, Der::i32)?, typed.field(1, what, Der::octets)?.to_vec()))
    })
}

/// AuthorizationData: types and contents.
pub type AuthorizationData = Vec<(i32, Vec<u8>)>;

fn read_authorization_data(der: &mut Der<'_>, what: &'static str) -> Result<AuthorizationData> {
    der.list(what, AUTHORIZATION_DATA_MAX, read_typed)
}

/// The contents of an element of the type AD-IF-RELEVANT.
pub(crate) fn if_relevant(bytes: &[u8]) -> Result<AuthorizationData> {
    Der::new(bytes).only("AD-IF-RELEVANT", read_authorization_data)
}

pub(crate) fn write_authorization_data(out: &mut Vec<u8>, data: &AuthorizationData) {
    out.element(SEQUENCE, |out| data.iter().for_each(|(number, bytes)| write_typed(out, *number, bytes)));
}

/// Ticket (RFC 4120 5.3). Realm and name are in the clear, so they decide nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The service that the ticket says it is for.
    pub service: Principal,
    /// EncTicketPart under the key of the service.
    pub enc_part: EncryptedData,
}

impl Ticket {
    fn read(der: &mut Der<'_>, what: &'static str) -> Result<Self> {
        der.enter(application(1), what)?.only(what, |ticket, what| {
            ticket.sequence(what, |ticket| {
                ticket.field(0, "tkt-vno", |der, what| der.constant(5, what))?;
                let name = ticket.field(1, "realm", realm)?;
                let service = principal(name, ticket.field(2, "sname", Principal::read)?);
                Ok(Self { service, enc_part: ticket.field(3, "enc-part", EncryptedData::read)? })
            })
        })
    }

    /// Reads a ticket that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Der::new(bytes).only("Ticket", Self::read)
    }

    /// Appends the ticket.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.element(application(1), |out| {
            out.element(SEQUENCE, |out| {
                out.field(0, |out| out.integer(5));
                out.field(1, |out| out.text(&self.service.realm));
                out.field(2, |out| self.service.write_name(out));
                out.field(3, |out| self.enc_part.write(out));
            });
        });
    }
}

/// EncTicketPart (RFC 4120 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncTicketPart {
    /// TicketFlags, bit 0 the most significant one.
    pub flags: u32,
    /// The session key.
    pub key: EncryptionKey,
    /// The client.
    pub client: Principal,
    /// The type and contents of the list of transited realms.
    pub transited: (i32, Vec<u8>),
    /// When the client proved itself to its KDC.
    pub authtime: FileTime,
    /// From when on the ticket is valid; `authtime` if it is missing.
    pub starttime: Option<FileTime>,
    /// Until when the ticket is valid.
    pub endtime: FileTime,
    /// Until when it may be renewed.
    pub renew_till: Option<FileTime>,
    /// Addresses of the client, which do not count.
    pub addresses: Option<Vec<(i32, Vec<u8>)>>,
    /// Authorization data, which holds the PAC.
    pub authorization_data: Option<AuthorizationData>,
}

impl EncTicketPart {
    /// Reads what a ticket holds.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Der::message(bytes, application(3), "EncTicketPart")?.only("EncTicketPart", |der, what| {
            der.sequence(what, |part| {
                let flags = part.field(0, "flags", Der::flags)?;
                let key = part.field(1, "key", EncryptionKey::read)?;
                let realm = part.field(2, "crealm", realm)?;
                Ok(Self {
                    flags,
                    key,
                    client: principal(realm, part.field(3, "cname", Principal::read)?),
                    transited: part.field(4, "transited", read_typed)?,
                    authtime: part.field(5, "authtime", Der::time)?,
                    starttime: part.optional(6, "starttime", Der::time)?,
                    endtime: part.field(7, "endtime", Der::time)?,
                    renew_till: part.optional(8, "renew-till", Der::time)?,
                    addresses: part.optional(9, "caddr", read_addresses)?,
                    authorization_data: part.optional(10, "authorization-data", read_authorization_data)?,
                })
            })
        })
    }

    /// Appends the part.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.element(application(3), |out| {
            out.element(SEQUENCE, |out| {
                out.field(0, |out| out.flags(self.flags));
                out.field(1, |out| self.key.write(out));
                out.field(2, |out| out.text(&self.client.realm));
                out.field(3, |out| self.client.write_name(out));
                out.field(4, |out| write_typed(out, self.transited.0, &self.transited.1));
                out.field(5, |out| out.time(self.authtime));
                write_time(out, 6, self.starttime);
                out.field(7, |out| out.time(self.endtime));
                write_time(out, 8, self.renew_till);
                if let Some(addresses) = &self.addresses {
                    out.field(9, |out| write_authorization_data(out, addresses));
                }
                if let Some(data) = &self.authorization_data {
                    out.field(10, |out| write_authorization_data(out, data));
                }
            });
        });
    }
}

fn read_addresses(der: &mut Der<'_>, what: &'static str) -> Result<Vec<(i32, Vec<u8>)>> {
    der.list(what, ADDRESSES_MAX, read_typed)
}

fn write_time(out: &mut Vec<u8>, number: u8, time: Option<FileTime>) {
    if let Some(time) = time {
        out.field(number, |out| out.time(time));
    }
}

/// A time with microseconds, as ctime and cusec have it.
pub(crate) fn with_microseconds(time: FileTime, microseconds: u32) -> FileTime {
    FileTime(time.0.saturating_add(u64::from(microseconds) * 10))
}

/// The whole second and the microseconds of a time.
pub(crate) fn microseconds(time: FileTime) -> (FileTime, u32) {
    let second = FileTime::from_unix(time.to_unix());
    (second, ((time.0 - second.0) / 10) as u32)
}

/// Authenticator (RFC 4120 5.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticator {
    /// The client, as in the ticket.
    pub client: Principal,
    /// The type and value of the checksum.
    pub checksum: Option<(i32, Vec<u8>)>,
    /// Microseconds of the client's time.
    pub cusec: u32,
    /// The client's time.
    pub ctime: FileTime,
    /// A key of the client's choice.
    pub subkey: Option<EncryptionKey>,
    /// The client's first sequence number.
    pub seq_number: Option<u32>,
    /// Authorization data of the client's own making, which proves nothing.
    pub authorization_data: Option<AuthorizationData>,
}

impl Authenticator {
    /// Reads an authenticator.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Der::message(bytes, application(2), "Authenticator")?.only("Authenticator", |der, what| {
            der.sequence(what, |part| {
                part.field(0, "authenticator-vno", |der, what| der.constant(5, what))?;
                let realm = part.field(1, "crealm", realm)?;
                Ok(Self {
                    client: principal(realm, part.field(2, "cname", Principal::read)?),
                    checksum: part.optional(3, "cksum", read_typed)?,
                    cusec: part.field(4, "cusec", Der::microseconds)?,
                    ctime: part.field(5, "ctime", Der::time)?,
                    subkey: part.optional(6, "subkey", EncryptionKey::read)?,
                    seq_number: part.optional(7, "seq-number", Der::u32)?,
                    authorization_data: part.optional(8, "authorization-data", read_authorization_data)?,
                })
            })
        })
    }

    /// Appends the authenticator.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.element(application(2), |out| {
            out.element(SEQUENCE, |out| {
                out.field(0, |out| out.integer(5));
                out.field(1, |out| out.text(&self.client.realm));
                out.field(2, |out| self.client.write_name(out));
                if let Some((number, bytes)) = &self.checksum {
                    out.field(3, |out| write_typed(out, *number, bytes));
                }
                out.field(4, |out| out.integer(self.cusec.into()));
                out.field(5, |out| out.time(self.ctime));
                if let Some(subkey) = &self.subkey {
                    out.field(6, |out| subkey.write(out));
                }
                if let Some(number) = self.seq_number {
                    out.field(7, |out| out.integer(number.into()));
                }
                if let Some(data) = &self.authorization_data {
                    out.field(8, |out| write_authorization_data(out, data));
                }
            });
        });
    }
}

/// AP-REQ (RFC 4120 5.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApReq {
    /// APOptions, bit 0 the most significant one.
    pub options: u32,
    /// The ticket.
    pub ticket: Ticket,
    /// The authenticator under the session key.
    pub authenticator: EncryptedData,
}

impl ApReq {
    /// Reads a bare AP-REQ.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Der::message(bytes, application(14), "AP-REQ")?.only("AP-REQ", |der, what| {
            der.sequence(what, |part| {
                part.field(0, "pvno", |der, what| der.constant(5, what))?;
                part.field(1, "msg-type", |der, what| der.constant(14, what))?;
                Ok(Self {
                    options: part.field(2, "ap-options", Der::flags)?,
                    ticket: part.field(3, "ticket", Ticket::read)?,
                    authenticator: part.field(4, "authenticator", EncryptedData::read)?,
                })
            })
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.element(application(14), |out| {
            out.element(SEQUENCE, |out| {
                out.field(0, |out| out.integer(5));
                out.field(1, |out| out.integer(14));
                out.field(2, |out| out.flags(self.options));
                out.field(3, |out| self.ticket.encode(out));
                out.field(4, |out| self.authenticator.write(out));
            });
        });
    }
}

/// AP-REP (RFC 4120 5.5.2); the third token of DCE style has the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApRep {
    /// EncAPRepPart under the session key.
    pub enc_part: EncryptedData,
}

impl ApRep {
    /// Reads a bare AP-REP.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Der::message(bytes, application(15), "AP-REP")?.only("AP-REP", |der, what| {
            der.sequence(what, |part| {
                part.field(0, "pvno", |der, what| der.constant(5, what))?;
                part.field(1, "msg-type", |der, what| der.constant(15, what))?;
                Ok(Self { enc_part: part.field(2, "enc-part", EncryptedData::read)? })
            })
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.element(application(15), |out| {
            out.element(SEQUENCE, |out| {
                out.field(0, |out| out.integer(5));
                out.field(1, |out| out.integer(15));
                out.field(2, |out| self.enc_part.write(out));
            });
        });
    }
}

/// EncAPRepPart (RFC 4120 5.5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncApRepPart {
    /// The time of the authenticator, or of the client in the third token.
    pub ctime: FileTime,
    /// Its microseconds.
    pub cusec: u32,
    /// The acceptor's key.
    pub subkey: Option<EncryptionKey>,
    /// The acceptor's first sequence number.
    pub seq_number: Option<u32>,
}

impl EncApRepPart {
    /// Reads what an AP-REP holds.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Der::message(bytes, application(27), "EncAPRepPart")?.only("EncAPRepPart", |der, what| {
            der.sequence(what, |part| {
                Ok(Self {
                    ctime: part.field(0, "ctime", Der::time)?,
                    cusec: part.field(1, "cusec", Der::microseconds)?,
                    subkey: part.optional(2, "subkey", EncryptionKey::read)?,
                    seq_number: part.optional(3, "seq-number", Der::u32)?,
                })
            })
        })
    }

    /// Appends the part.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.element(application(27), |out| {
            out.element(SEQUENCE, |out| {
                out.field(0, |out| out.time(self.ctime));
                out.field(1, |out| out.integer(self.cusec.into()));
                if let Some(subkey) = &self.subkey {
                    out.field(2, |out| subkey.write(out));
                }
                if let Some(number) = self.seq_number {
                    out.field(3, |out| out.integer(number.into()));
                }
            });
        });
    }
}

/// The messages with a KDC (RFC 4120 5.4), as far as a client that has a ticket-granting ticket needs them.
pub(crate) mod kdc {
    use super::*;

    /// PA-TGS-REQ: an AP-REQ.
    pub(crate) const PA_TGS_REQ: i32 = 1;
    /// Entries of a last-req field.
    const LAST_REQ_MAX: usize = 16;
    /// Pre-authentication data of a reply.
    const PADATA_MAX: usize = 32;

    /// KDC-REQ-BODY of a TGS-REQ without options.
    pub(crate) fn write_body(out: &mut Vec<u8>, service: &Principal, till: FileTime, nonce: u32) {
        out.element(SEQUENCE, |out| {
            out.field(0, |out| out.flags(0));
            out.field(2, |out| out.text(&service.realm));
            out.field(3, |out| service.write_name(out));
            out.field(5, |out| out.time(till));
            out.field(7, |out| out.integer(nonce.into()));
            out.field(8, |out| {
                out.element(SEQUENCE, |out| {
                    Etype::ALL.iter().for_each(|etype| out.integer(etype.number().into()));
                });
            });
        });
    }

    /// TGS-REQ around an AP-REQ and a KDC-REQ-BODY that are encoded.
    pub(crate) fn tgs_req(ap_req: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ap_req.len() + body.len() + 64);
        out.element(application(12), |out| {
            out.element(SEQUENCE, |out| {
                out.field(1, |out| out.integer(5));
                out.field(2, |out| out.integer(12));
                out.field(3, |out| {
                    out.element(SEQUENCE, |out| {
                        out.element(SEQUENCE, |out| {
                            out.field(1, |out| out.integer(PA_TGS_REQ.into()));
                            out.field(2, |out| out.octets(ap_req));
                        });
                    });
                });
                out.field(4, |out| out.extend_from_slice(body));
            });
        });
        out
    }

    /// TGS-REP.
    pub(crate) struct TgsRep {
        pub(crate) client: Principal,
        /// The ticket as it came.
        pub(crate) ticket: Vec<u8>,
        pub(crate) enc_part: EncryptedData,
    }

    impl TgsRep {
        pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
            Der::message(bytes, application(13), "TGS-REP")?.only("TGS-REP", |der, what| {
                der.sequence(what, |part| {
                    part.field(0, "pvno", |der, what| der.constant(5, what))?;
                    part.field(1, "msg-type", |der, what| der.constant(13, what))?;
                    part.optional(2, "padata", |der, what| {
                        der.list(what, PADATA_MAX, |der, what| der.raw(what).map(|_| ()))
                    })?;
                    let realm = part.field(3, "crealm", realm)?;
                    let client = principal(realm, part.field(4, "cname", Principal::read)?);
                    let ticket = part.field(5, "ticket", Der::raw)?.to_vec();
                    Ticket::decode(&ticket)?;
                    Ok(Self { client, ticket, enc_part: part.field(6, "enc-part", EncryptedData::read)? })
                })
            })
        }
    }

    /// EncTGSRepPart.
    pub(crate) struct EncTgsRepPart {
        pub(crate) key: EncryptionKey,
        pub(crate) nonce: u32,
        pub(crate) endtime: FileTime,
        pub(crate) service: Principal,
    }

    impl EncTgsRepPart {
        pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
            // Some KDCs use the tag of EncASRepPart for both.
            let tag = if bytes.first() == Some(&application(25)) { 25 } else { 26 };
            Der::message(bytes, application(tag), "EncTGSRepPart")?.only("EncTGSRepPart", |der, what| {
                der.sequence(what, |part| {
                    let key = part.field(0, "key", EncryptionKey::read)?;
                    part.field(1, "last-req", |der, what| {
                        der.list(what, LAST_REQ_MAX, |der, what| der.raw(what).map(|_| ()))
                    })?;
                    let nonce = part.field(2, "nonce", Der::u32)?;
                    part.optional(3, "key-expiration", Der::time)?;
                    part.field(4, "flags", Der::flags)?;
                    part.field(5, "authtime", Der::time)?;
                    part.optional(6, "starttime", Der::time)?;
                    let endtime = part.field(7, "endtime", Der::time)?;
                    part.optional(8, "renew-till", Der::time)?;
                    let realm = part.field(9, "srealm", realm)?;
                    let service = principal(realm, part.field(10, "sname", Principal::read)?);
                    part.optional(11, "caddr", read_addresses)?;
                    part.optional(12, "encrypted-pa-data", |der, what| der.raw(what).map(|_| ()))?;
                    Ok(Self { key, nonce, endtime, service })
                })
            })
        }
    }

    /// The error code of a KRB-ERROR.
    pub(crate) fn error_code(bytes: &[u8]) -> Result<i32> {
        Der::message(bytes, application(30), "KRB-ERROR")?.only("KRB-ERROR", |der, what| {
            der.sequence(what, |part| {
                part.field(0, "pvno", |der, what| der.constant(5, what))?;
                part.field(1, "msg-type", |der, what| der.constant(30, what))?;
                part.optional(2, "ctime", Der::time)?;
                part.optional(3, "cusec", Der::microseconds)?;
                part.field(4, "stime", Der::time)?;
                part.field(5, "susec", Der::microseconds)?;
                let code = part.field(6, "error-code", Der::i32)?;
                while !part.is_empty() {
                    part.raw("KRB-ERROR")?;
                }
                Ok(code)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::test::{AP_REQ, AUTHENTICATOR, ENC_TICKET_PART, unhex};
    use dtyp::hex;

    fn to_bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn messages_come_back_byte_for_byte_and_cut_ones_are_refused() {
        let (ap_req, ticket, authenticator) = (unhex(AP_REQ), unhex(ENC_TICKET_PART), unhex(AUTHENTICATOR));
        let message = ApReq::decode(&ap_req).expect("the vector");
        assert_eq!(to_bytes(|out| message.encode(out)), ap_req);
        assert_eq!(message.ticket.service.to_string(), "host/srv@RPC.TEST");
        assert_eq!((message.ticket.enc_part.etype, message.ticket.enc_part.kvno), (18, Some(2)));
        let part = EncTicketPart::decode(&ticket).expect("the vector");
        assert_eq!(to_bytes(|out| part.encode(out)), ticket);
        assert_eq!(part.client.to_string(), "alice@RPC.TEST");
        let message = Authenticator::decode(&authenticator).expect("the vector");
        assert_eq!(to_bytes(|out| message.encode(out)), authenticator);
        assert_eq!((message.seq_number, message.cusec), (Some(1000), 0x06b022));
        let rep = "7b243022a011180f32303236303130313132303030305aa105020306b023a306020401020304";
        let part = EncApRepPart::decode(&unhex(rep)).expect("the vector");
        assert_eq!(hex(&to_bytes(|out| part.encode(out))), rep);
        for end in 0..ap_req.len() {
            assert!(ApReq::decode(&ap_req[..end]).is_err(), "{end}");
        }
        for end in 0..ticket.len() {
            assert!(EncTicketPart::decode(&ticket[..end]).is_err(), "{end}");
        }
        for end in 0..authenticator.len() {
            assert!(Authenticator::decode(&authenticator[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn names_have_a_bounded_length() {
        let of = |len: usize, realm: usize| {
            let service =
                Principal { realm: "R".repeat(realm), name_type: 1, components: vec!["a".repeat(len); 2] };
            let enc_part = EncryptedData { etype: 18, kvno: None, cipher: Vec::new() };
            Ticket::decode(&to_bytes(|out| {
                Ticket { service: service.clone(), enc_part: enc_part.clone() }.encode(out)
            }))
        };
        assert!(of(512, 1024).is_ok());
        assert_eq!(of(513, 1).map_err(|error| error.kind), Err(DecodeErrorKind::TooLong));
        assert_eq!(of(1, 1025).map_err(|error| error.kind), Err(DecodeErrorKind::TooLong));
    }

    #[test]
    fn no_two_principals_look_the_same() {
        let name = |components: &[&str]| Principal {
            realm: "R".to_owned(),
            name_type: 1,
            components: components.iter().map(|&component| component.to_owned()).collect(),
        };
        assert_eq!(name(&["a", "b"]).to_string(), "a/b@R");
        assert_eq!(name(&["a/b"]).to_string(), r"a\/b@R");
        assert_eq!(name(&["a@X"]).to_string(), r"a\@X@R");
        assert_eq!(name(&[r"a\"]).to_string(), r"a\\@R");
        for components in [&["a", "b"][..], &["a/b"], &["a@X"], &[r"a\"]] {
            let principal = name(components);
            let parsed = Principal::parse(&principal.to_string(), "OTHER").expect("ours");
            assert_eq!((parsed.components, parsed.realm), (principal.components, principal.realm));
        }
        assert_eq!(Principal::parse("sso/srv", "R").map(|p| p.to_string()).as_deref(), Some("sso/srv@R"));
        for bad in ["", "@R", "a/@R", "a@", "a@b@c", "a\\"] {
            assert_eq!(Principal::parse(bad, "R"), None, "{bad}");
        }
        assert_eq!(Principal::parse("a", ""), None);
    }
}
