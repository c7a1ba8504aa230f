//! Samba's `secrets.tdb`: the password of a machine account, as Samba has it.
//!
//! A TDB file (Samba, `lib/tdb/common/tdb_private.h`) has a header, then a table of hash chains, then
//! records. Each record has the offset of the next record of its chain. The file is read as a whole and never
//! written.

use dtyp::{ByteOrder, Decode, DecodeError, DecodeErrorKind, Reader, Sid};
use zeroize::Zeroizing;

/// The longest file: Samba's has less than half a MiB.
pub const LEN_MAX: usize = 16 << 20;
/// `TDB_MAGIC_FOOD`, with the NUL at its end.
const MAGIC: &[u8; 10] = b"TDB file\n\0";
/// `TDB_VERSION`.
const VERSION: u32 = 0x2601_1967 + 6;
/// `sizeof(struct tdb_header)`; then the head of the free list, and the heads of the chains.
const HEADER_LEN: usize = 168;
/// `TDB_MAGIC` of a record in use.
const RECORD_MAGIC: u32 = 0x2601_1999;
/// `TDB_RECOVERY_MAGIC` of the recovery area, while a transaction is not complete.
const RECOVERY_MAGIC: u32 = 0xf53b_c0e7;
/// `sizeof(struct tdb_record)`.
const RECORD_LEN: usize = 24;
/// `sizeof(struct dom_sid)`.
const SID_LEN: usize = 68;

/// The records of a file.
struct Tdb<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
    chains: usize,
}

/// One record: its key and its value, and where the next one of its chain is.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    next: usize,
}

impl<'a> Tdb<'a> {
    /// Reads the header.
    fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let wrong = |what, offset| DecodeError { what, offset, kind: DecodeErrorKind::BadValue };
        if !bytes.starts_with(MAGIC) {
            return Err(wrong("magic of a TDB file", 0));
        }
        // The byte order is that of the machine that wrote it.
        let order = match bytes.get(32..36) {
            Some(version) if version == VERSION.to_le_bytes() => ByteOrder::Little,
            Some(version) if version == VERSION.to_be_bytes() => ByteOrder::Big,
            _ => return Err(wrong("version of a TDB file", 32)),
        };
        let mut tdb = Self { bytes, order, chains: 0 };
        let mut header = tdb.at(36)?;
        tdb.chains = header.u32("number of chains")? as usize;
        let (_locks, recovery) = (header.u32("locks")?, header.u32("recovery area")? as usize);
        let _sequence = header.u32("sequence number")?;
        let _hash_checks = (header.u32("check of the hash")?, header.u32("check of the hash")?);
        if header.u32("features of a TDB file")? != 0 {
            return Err(wrong("features of a TDB file", 60));
        }
        if recovery != 0 && tdb.record(recovery).is_ok_and(|(magic, _)| magic == RECOVERY_MAGIC) {
            return Err(wrong("transaction that was cut off: let Samba open the file once", recovery));
        }
        Ok(tdb)
    }

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        // A chain with a loop would not end. The file has no room for more records than this.
        let mut left = self.bytes.len() / RECORD_LEN;
        for chain in 0..self.chains {
            let mut at = self.at(HEADER_LEN + 4 + 4 * chain)?.u32("head of a chain")? as usize;
            while at != 0 {
                let (magic, record) = self.record(at)?;
                if magic == RECORD_MAGIC && record.key == key {
                    return Ok(Some(record.value));
                }
                left = left.checked_sub(1).ok_or(DecodeError {
                    what: "chain of records",
                    offset: at,
                    kind: DecodeErrorKind::BadValue,
                })?;
                at = record.next;
            }
        }
        Ok(None)
    }

    fn at(&self, offset: usize) -> Result<Reader<'a>, DecodeError> {
        let mut reader = Reader::new(self.bytes).with_order(self.order);
        reader.take("place in a TDB file", offset)?;
        Ok(reader)
    }

    /// Reads the record at this offset, and returns its magic and its contents.
    fn record(&self, at: usize) -> Result<(u32, Record<'a>), DecodeError> {
        let mut reader = self.at(at)?;
        let next = reader.u32("next record")? as usize;
        let _len = reader.u32("length of a record")?;
        let key_len = reader.u32("length of a key")? as usize;
        let value_len = reader.u32("length of a value")? as usize;
        let _hash = reader.u32("hash of a key")?;
        let magic = reader.u32("magic of a record")?;
        let (key, value) = match magic {
            RECORD_MAGIC => (reader.take("key", key_len)?, reader.take("value", value_len)?),
            _ => (&[][..], &[][..]),
        };
        Ok((magic, Record { key, value, next }))
    }
}

/// The secret of the machine account in one domain, from `secrets.tdb`.
pub struct SambaSecret {
    /// The password. It is text, even if Samba made it at random.
    pub password: Zeroizing<String>,
    /// The SID of the domain, if it is there.
    pub domain_sid: Option<Sid>,
}

/// The present password of the machine account in a domain; `None` if the file has none.
pub fn machine_secret(bytes: &[u8], netbios: &str) -> Result<Option<SambaSecret>, DecodeError> {
    let tdb = Tdb::open(bytes)?;
    let domain = netbios.to_uppercase();
    let key = |what: &str| format!("SECRETS/{what}/{domain}").into_bytes();
    let Some(password) = tdb.get(&key("MACHINE_PASSWORD"))? else { return Ok(None) };
    let password = password.strip_suffix(&[0]).unwrap_or(password);
    let wrong = |_| DecodeError { what: "password in UTF-8", offset: 0, kind: DecodeErrorKind::BadValue };
    let password = Zeroizing::new(str::from_utf8(password).map_err(wrong)?.to_owned());
    let domain_sid = tdb.get(&key("SID"))?.map(|sid| read_sid(sid, tdb.order)).transpose()?;
    Ok(Some(SambaSecret { password, domain_sid }))
}

/// `struct dom_sid`: a SID in the order of the file, then room up to 15 sub-authorities.
fn read_sid(bytes: &[u8], order: ByteOrder) -> Result<Sid, DecodeError> {
    match bytes.len() {
        SID_LEN => Sid::decode(&mut Reader::new(bytes).with_order(order)),
        _ => Err(DecodeError { what: "SID of the domain", offset: 0, kind: DecodeErrorKind::BadValue }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Samba's tdbtool 1.4.8.
    const FILE: &[u8] = include_bytes!("samba_secrets/tdbtool.tdb");

    #[test]
    fn the_password_and_the_domain_are_read() {
        let secret = machine_secret(FILE, "contoso").expect("it is read").expect("it is there");
        assert_eq!(secret.password.as_str(), "correct-horse-battery");
        let sid = "S-1-5-21-3540907678-3920722522-1282066492".parse().expect("a SID");
        assert_eq!(secret.domain_sid, Some(sid));
        assert!(machine_secret(FILE, "FABRIKAM").expect("it is read").is_none());
    }

    #[test]
    fn files_that_are_cut_off_or_damaged_are_errors_and_end() {
        for len in 0..FILE.len() {
            // Behind the last record is nothing that is read.
            if let Ok(Some(secret)) = machine_secret(&FILE[..len], "CONTOSO") {
                assert_eq!(secret.password.as_str(), "correct-horse-battery", "{len}");
            }
        }
        assert!(machine_secret(&FILE[..1000], "CONTOSO").is_err());
        for at in 0..FILE.len() {
            let mut damaged = FILE.to_vec();
            damaged[at] ^= 0xff;
            let _ = machine_secret(&damaged, "CONTOSO");
        }
    }

    #[test]
    fn a_chain_that_leads_back_and_a_cut_transaction_are_errors() {
        let place = FILE.windows(7).position(|window| window == b"SECRETS").expect("a key");
        let record = u32::try_from(place - RECORD_LEN).expect("a short file");
        let mut endless = FILE.to_vec();
        endless[place - RECORD_LEN..place - RECORD_LEN + 4].copy_from_slice(&record.to_le_bytes());
        let tdb = Tdb::open(&endless).expect("its header is good");
        assert_eq!(tdb.get(b"none").expect_err("it has no end").what, "chain of records");

        let mut cut = FILE.to_vec();
        cut[44..48].copy_from_slice(&record.to_le_bytes());
        cut[place - 4..place].copy_from_slice(&RECOVERY_MAGIC.to_le_bytes());
        let error = machine_secret(&cut, "CONTOSO").err().expect("it is refused");
        assert!(error.what.contains("transaction"), "{error}");
    }
}
