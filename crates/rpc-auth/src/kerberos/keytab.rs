//! Keytab files of MIT Kerberos, version 0x502: the long-term keys of services.

use super::etype::{Etype, Key};
use super::messages::{COMPONENTS_MAX, EncryptionKey, Principal};
use crate::der::text_without_nul;
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Encode, FileTime, Reader};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

/// Entries of one file: 64 services with four versions of four types each.
const ENTRIES_MAX: usize = 1024;
/// The first two bytes of a file.
const VERSION: [u8; 2] = [5, 2];
/// RC4, which is recognised to be refused.
const RC4_HMAC: i32 = 23;

/// One key of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeytabEntry {
    /// The service.
    pub principal: Principal,
    /// When the entry was written.
    pub time: FileTime,
    /// The version of the key; 0 is a wildcard.
    pub kvno: u32,
    /// Whether the file has the version in 32 bits. Otherwise it has the lowest eight only.
    pub has_wide_kvno: bool,
    /// The key.
    pub key: EncryptionKey,
}

/// The keys of a keytab file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Keytab {
    /// The entries in the order of the file, without holes.
    pub entries: Vec<KeytabEntry>,
}

/// What an operator has to mend in a keytab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeytabProblem {
    /// There is no AES key, so no ticket can be accepted.
    NoAesKey {
        /// The types that are there, by number.
        etypes: Vec<i32>,
    },
    /// A key is also the key of the machine account of the Netlogon channel. A ticket for each of the
    /// machine's services then opens this one.
    MachineAccountKey {
        /// The entry's principal.
        principal: String,
    },
    /// Several principals have the same key, so a ticket for one is a ticket for the others.
    SharedKey {
        /// The principals.
        principals: Vec<String>,
    },
}

impl KeytabProblem {
    /// Whether the service must not start with it. The others are warnings.
    pub const fn is_error(&self) -> bool {
        !matches!(self, Self::SharedKey { .. })
    }
}

impl fmt::Display for KeytabProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAesKey { etypes } => write!(
                f,
                "the keytab has no AES key (types 17 to 20), only types {etypes:?}; export one with AES keys, and in \
                 Active Directory set msDS-SupportedEncryptionTypes of the account to 0x18"
            ),
            Self::MachineAccountKey { principal } => write!(
                f,
                "the keytab's key of {principal} is the key of the Netlogon machine account; give this service an \
                 account of its own"
            ),
            Self::SharedKey { principals } => write!(
                f,
                "{} have one key, so that a ticket for one is accepted for the others; give each service an account \
                 of its own",
                principals.join(" and ")
            ),
        }
    }
}

/// What is known of the account that a keytab must not hold the key of.
#[derive(Clone, Debug, Default)]
pub struct MachineAccount<'a> {
    /// `sAMAccountName`, with or without its `$`.
    pub name: Option<&'a str>,
    /// The NT hash of the password, which is the account's RC4 key.
    pub nt_hash: Option<&'a [u8; 16]>,
    /// The AES keys.
    pub keys: &'a [Key],
}

impl Keytab {
    /// Reads a file. Holes are skipped, and entries of unknown types kept.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut file = Reader::new(bytes).with_order(ByteOrder::Big);
        if file.array("keytab version")? != VERSION {
            return Err(DecodeError { what: "keytab version", offset: 0, kind: DecodeErrorKind::BadValue });
        }
        let mut entries = Vec::new();
        while file.remaining() > 0 {
            let size = file.u32("keytab entry size")? as i32;
            match size {
                // Some writers end the file with a size of zero.
                0 => break,
                ..0 => drop(file.take("keytab hole", size.unsigned_abs() as usize)?),
                1.. => {
                    if entries.len() == ENTRIES_MAX {
                        return Err(file.error("keytab", DecodeErrorKind::TooMany(ENTRIES_MAX)));
                    }
                    let mut entry = file.sub_reader("keytab entry", size as usize)?;
                    entries.push(KeytabEntry::read(&mut entry)?);
                }
            }
        }
        Ok(Self { entries })
    }

    /// Appends the entry with a key.
    pub fn push(&mut self, principal: Principal, time: FileTime, kvno: u32, key: &Key) {
        self.entries.push(KeytabEntry { principal, time, kvno, has_wide_kvno: true, key: key.into() });
    }

    /// What an operator has to mend, errors first.
    pub fn problems(&self, machine: &MachineAccount<'_>) -> Vec<KeytabProblem> {
        let mut problems = Vec::new();
        if !self.entries.iter().any(|entry| entry.key.key().is_some()) {
            let mut etypes: Vec<i32> = self.entries.iter().map(|entry| entry.key.etype).collect();
            etypes.sort_unstable();
            etypes.dedup();
            problems.push(KeytabProblem::NoAesKey { etypes });
        }
        for entry in self.entries.iter().filter(|entry| machine.has(entry)) {
            let problem = KeytabProblem::MachineAccountKey { principal: entry.principal.to_string() };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        for (at, entry) in self.entries.iter().enumerate() {
            let same_key = |other: &&KeytabEntry| other.key == entry.key;
            if self.entries[..at].iter().any(|other| same_key(&other)) {
                continue;
            }
            let mut principals = Vec::new();
            for other in self.entries[at..].iter().filter(same_key) {
                if !principals.contains(&other.principal.to_string()) {
                    principals.push(other.principal.to_string());
                }
            }
            let is_shared = principals.len() > 1;
            let problem = KeytabProblem::SharedKey { principals };
            if is_shared && !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        problems
    }

    /// The keys that may open a ticket, the likeliest first: of this version, then versions of which the file
    /// has the lowest eight bits only, then wildcards. Of equal rank the newest comes first, and of equal
    /// times the highest version. A ticket without a version (or with 0) may be under each key of its type.
    pub(crate) fn candidates(&self, etype: Etype, kvno: Option<u32>) -> Vec<(&KeytabEntry, Key)> {
        let wanted = kvno.filter(|kvno| *kvno != 0);
        let rank = |entry: &KeytabEntry| match wanted {
            _ if entry.kvno == 0 => Some(2),
            None => Some(0),
            Some(wanted) if entry.kvno == wanted => Some(0),
            Some(wanted) if !entry.has_wide_kvno && entry.kvno == wanted & 0xff => Some(1),
            Some(_) => None,
        };
        let of_type = self.entries.iter().filter(|entry| entry.key.etype == etype.number());
        let mut ranked: Vec<_> =
            of_type.filter_map(|entry| Some((rank(entry)?, entry, entry.key.key()?))).collect();
        ranked.sort_by(|(a_rank, a, _), (b_rank, b, _)| {
            a_rank.cmp(b_rank).then(b.time.cmp(&a.time)).then(b.kvno.cmp(&a.kvno))
        });
        ranked.into_iter().map(|(_, entry, key)| (entry, key)).collect()
    }

    /// The versions held of a type, for the log.
    pub(crate) fn kvnos(&self, etype: i32) -> Vec<u32> {
        let of_type = self.entries.iter().filter(|entry| entry.key.etype == etype);
        let mut kvnos: Vec<u32> = of_type.map(|entry| entry.kvno).collect();
        kvnos.sort_unstable();
        kvnos.dedup();
        kvnos
    }
}

impl MachineAccount<'_> {
    fn has(&self, entry: &KeytabEntry) -> bool {
        let by_name = self.name.is_some_and(|name| {
            let name = name.strip_suffix('$').unwrap_or(name);
            let [own] = &entry.principal.components[..] else { return false };
            own.strip_suffix('$').is_some_and(|own| own.eq_ignore_ascii_case(name))
        });
        let by_hash = self.nt_hash.is_some_and(|hash| {
            let key = EncryptionKey { etype: RC4_HMAC, bytes: Zeroizing::new(hash.to_vec()) };
            entry.key == key
        });
        by_name || by_hash || entry.key.key().is_some_and(|key| self.keys.contains(&key))
    }
}

impl KeytabEntry {
    fn read(entry: &mut Reader<'_>) -> Result<Self, DecodeError> {
        fn text(entry: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
            let len = entry.u16(what)?;
            let bad = entry.error(what, DecodeErrorKind::BadText);
            text_without_nul(entry.take(what, len.into())?).ok_or(bad)
        }
        let count = entry.u16("keytab components")?;
        if count == 0 || usize::from(count) > COMPONENTS_MAX {
            return Err(entry.error("keytab components", DecodeErrorKind::BadValue));
        }
        let realm = text(entry, "keytab realm")?;
        let components = (0..count).map(|_| text(entry, "keytab component")).collect::<Result<_, _>>()?;
        let name_type = entry.u32("keytab name type")? as i32;
        let time = FileTime::from_unix(entry.u32("keytab time")?.into());
        let narrow = u32::from(entry.u8("keytab kvno")?);
        let etype = i32::from(entry.u16("keytab key type")? as i16);
        let len = entry.u16("keytab key")?;
        let bytes = Zeroizing::new(entry.take("keytab key", len.into())?.to_vec());
        // Older writers end here, and later ones may append more.
        let wide = match entry.remaining() {
            4.. => Some(entry.u32("keytab wide kvno")?).filter(|wide| *wide != 0),
            _ => None,
        };
        Ok(Self {
            principal: Principal { realm, name_type, components },
            time,
            kvno: wide.unwrap_or(narrow),
            has_wide_kvno: wide.is_some(),
            key: EncryptionKey { etype, bytes },
        })
    }
}

impl Encode for Keytab {
    fn encode(&self, out: &mut Vec<u8>) {
        fn text(out: &mut Vec<u8>, text: &str) {
            out.extend_from_slice(&(text.len() as u16).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&VERSION);
        for entry in &self.entries {
            let mut body = Zeroizing::new(Vec::new());
            body.extend_from_slice(&(entry.principal.components.len() as u16).to_be_bytes());
            text(&mut body, &entry.principal.realm);
            entry.principal.components.iter().for_each(|component| text(&mut body, component));
            body.extend_from_slice(&entry.principal.name_type.to_be_bytes());
            body.extend_from_slice(&(entry.time.to_unix() as u32).to_be_bytes());
            body.push(entry.kvno as u8);
            body.extend_from_slice(&(entry.key.etype as u16).to_be_bytes());
            body.extend_from_slice(&(entry.key.bytes.len() as u16).to_be_bytes());
            body.extend_from_slice(&entry.key.bytes);
            if entry.has_wide_kvno {
                body.extend_from_slice(&entry.kvno.to_be_bytes());
            }
            out.extend_from_slice(&(body.len() as u32).to_be_bytes());
            out.extend_from_slice(&body);
        }
    }
}

/// A keytab that all acceptors share, and that its owner replaces when the file changes. Contexts that are
/// set up do not need it any more.
#[derive(Debug, Default)]
pub struct SharedKeytab(RwLock<Arc<Keytab>>);

impl SharedKeytab {
    /// Starts with this keytab.
    pub fn new(keytab: Keytab) -> Self {
        Self(RwLock::new(Arc::new(keytab)))
    }

    /// The keytab of now.
    pub fn load(&self) -> Arc<Keytab> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keytab for the tickets that come from now on.
    pub fn store(&self, keytab: Keytab) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keytab);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::test::{service, unhex};

    fn key(etype: Etype, fill: u8) -> Key {
        Key::new(etype, &vec![fill; etype.key_len()]).expect("the length of the type")
    }

    /// Written by `ktutil` of MIT Kerberos 1.20 (`addent -key`), HTTP/srv.rpc.test@RPC.TEST
    /// kvno 2 type 18, and kvno 300 type 17.
    const KTUTIL: &str = "0502
        00000051 0002 0008 5250432e54455354 0004 48545450 000c 7372762e7270632e74657374 00000001 6b0c8d6d
        02 0012 0020 1111111111111111111111111111111111111111111111111111111111111111 00000002
        00000041 0002 0008 5250432e54455354 0004 48545450 000c 7372762e7270632e74657374 00000001 6b0c8d6d
        2c 0011 0010 22222222222222222222222222222222 0000012c";

    #[test]
    fn reads_files_of_mit_kerberos_and_writes_them_back() {
        let bytes = unhex(KTUTIL);
        let keytab = Keytab::decode(&bytes).expect("the file");
        assert_eq!(keytab.to_bytes(), bytes);
        let [first, second] = &keytab.entries[..] else { panic!("two entries") };
        assert_eq!(first.principal.to_string(), "HTTP/srv.rpc.test@RPC.TEST");
        assert_eq!(first.time.to_string(), "2026-11-29T20:39:09Z");
        assert_eq!((first.kvno, second.kvno), (2, 300), "eight bits, and thirty-two");
        assert_eq!(first.key.key(), Some(key(Etype::Aes256Sha1, 0x11)));
        for end in 3..bytes.len() {
            let boundary = end == 2 + 4 + 0x51;
            assert_eq!(Keytab::decode(&bytes[..end]).is_err(), !boundary, "cut to {end}");
        }
    }

    #[test]
    fn skips_holes_and_reads_entries_without_a_wide_version() {
        let mut bytes = unhex(KTUTIL);
        // The first entry becomes a hole, as `ktremove` makes it, and the second loses its last four bytes.
        bytes[2..6].copy_from_slice(&(-0x51i32).to_be_bytes());
        let second = 2 + 4 + 0x51;
        bytes[second..second + 4].copy_from_slice(&0x3du32.to_be_bytes());
        bytes.truncate(bytes.len() - 4);
        let keytab = Keytab::decode(&bytes).expect("a hole and an entry");
        let [entry] = &keytab.entries[..] else { panic!("one entry") };
        assert_eq!((entry.kvno, entry.has_wide_kvno), (44, false));
        // A ticket of version 300 finds the key by its lowest eight bits.
        assert_eq!(keytab.candidates(Etype::Aes128Sha1, Some(300)).len(), 1);
        assert_eq!(keytab.candidates(Etype::Aes128Sha1, Some(45)).len(), 0);
        for bad in ["0501", "05", "0502 80000000", "0502 00000001 00", "0502 fffffff0 00"] {
            assert!(Keytab::decode(&unhex(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_newest_of_the_right_version_comes_first_and_wildcards_last() {
        let mut keytab = Keytab::default();
        let times = [(0, 900), (2, 100), (3, 100), (1, 100), (3, 200)];
        for (at, (kvno, time)) in times.into_iter().enumerate() {
            keytab.push(
                service("HTTP/srv"),
                FileTime::from_unix(time),
                kvno,
                &key(Etype::Aes256Sha1, at as u8),
            );
        }
        let found = |kvno| {
            let candidates = keytab.candidates(Etype::Aes256Sha1, kvno);
            candidates.iter().map(|(entry, _)| (entry.kvno, entry.time.to_unix())).collect::<Vec<_>>()
        };
        assert_eq!(found(Some(3)), [(3, 200), (3, 100), (0, 900)]);
        assert_eq!(found(Some(7)), [(0, 900)], "the wildcard alone");
        assert_eq!(found(None), [(3, 200), (3, 100), (2, 100), (1, 100), (0, 900)]);
        assert_eq!(found(Some(0)), found(None));
        assert_eq!(keytab.candidates(Etype::Aes128Sha1, None), []);
    }

    #[test]
    fn names_what_an_operator_has_to_mend() {
        let none = MachineAccount::default();
        let mut keytab = Keytab::default();
        keytab.push(service("HTTP/srv"), FileTime::UNSET, 1, &key(Etype::Aes256Sha1, 1));
        assert_eq!(keytab.problems(&none), []);
        keytab.push(service("HTTP/srv"), FileTime::UNSET, 2, &key(Etype::Aes256Sha1, 1));
        assert_eq!(keytab.problems(&none), [], "one service");
        keytab.push(service("host/srv"), FileTime::UNSET, 2, &key(Etype::Aes256Sha1, 1));
        let principals = vec!["HTTP/srv@RPC.TEST".to_owned(), "host/srv@RPC.TEST".to_owned()];
        let [problem] = &keytab.problems(&none)[..] else { panic!("one problem") };
        assert_eq!(*problem, KeytabProblem::SharedKey { principals });
        assert!(!problem.is_error());

        let mut rc4 = Keytab::default();
        rc4.push(service("SRV$"), FileTime::UNSET, 1, &key(Etype::Aes128Sha1, 7));
        rc4.entries[0].key.etype = RC4_HMAC;
        assert_eq!(rc4.problems(&none), [KeytabProblem::NoAesKey { etypes: vec![23] }]);
        assert_eq!(Keytab::default().problems(&none), [KeytabProblem::NoAesKey { etypes: vec![] }]);
        let machine = KeytabProblem::MachineAccountKey { principal: "SRV$@RPC.TEST".to_owned() };
        for account in [
            MachineAccount { nt_hash: Some(&[7; 16]), ..none.clone() },
            MachineAccount { name: Some("srv$"), ..none.clone() },
            MachineAccount { name: Some("SRV"), ..none.clone() },
        ] {
            assert!(rc4.problems(&account).contains(&machine), "{account:?}");
        }
        let keys = [key(Etype::Aes256Sha1, 1)];
        let account = MachineAccount { keys: &keys, ..none };
        let problem = KeytabProblem::MachineAccountKey { principal: "HTTP/srv@RPC.TEST".to_owned() };
        assert!(keytab.problems(&account).contains(&problem));
        assert!(problem.is_error());
    }
}
