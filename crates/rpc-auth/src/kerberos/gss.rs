//! What GSS-API adds to the messages: the frame of RFC 2743 3.1, and the checksum 0x8003 of RFC 4121 4.1.1.

use crate::der::{Der, FRAME, OBJECT_IDENTIFIER};
use crate::{Refusal, RefusalReason};
use dcerpc::security::AuthLevel;
use dtyp::Reader;

/// 1.2.840.113554.1.2.2, the mechanism.
pub(crate) const OID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2];
/// 1.2.840.48018.1.2.2, the same with the mistake of Windows 2000.
pub(crate) const OID_MICROSOFT: &[u8] = &[0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 1, 2, 2];
/// KRB_AP_REQ in a frame.
const TOK_ID_AP_REQ: [u8; 2] = [1, 0];

/// The type of the authenticator's checksum.
pub(crate) const CHECKSUM_TYPE: i32 = 0x8003;
/// Length of the hash of channel bindings.
const BINDINGS_LEN: usize = 16;

/// Flags of the checksum; the last is of RFC 4757 7.1.
pub(crate) const MUTUAL: u32 = 0x2;
pub(crate) const REPLAY: u32 = 0x4;
pub(crate) const SEQUENCE: u32 = 0x8;
pub(crate) const CONFIDENTIALITY: u32 = 0x10;
pub(crate) const INTEGRITY: u32 = 0x20;
pub(crate) const DCE_STYLE: u32 = 0x1000;
/// What our initiator asks for.
pub(crate) const ASKED: u32 = MUTUAL | REPLAY | SEQUENCE | CONFIDENTIALITY | INTEGRITY | DCE_STYLE;

/// A bare AP-REQ. DCE style has no frame, but Impacket sends one.
pub(crate) fn unframe(token: &[u8]) -> Result<&[u8], Refusal> {
    if token.first() != Some(&FRAME) {
        return Ok(token);
    }
    let malformed = || Refusal::new(RefusalReason::Token, "the frame of the token is malformed");
    let mut inside = Der::message(token, FRAME, "GSS-API frame").map_err(|_| malformed())?;
    let oid = inside.enter(OBJECT_IDENTIFIER, "thisMech").map_err(|_| malformed())?.rest();
    let (tok_id, rest) = inside.rest().split_first_chunk::<2>().ok_or_else(malformed)?;
    match (oid == OID || oid == OID_MICROSOFT) && *tok_id == TOK_ID_AP_REQ {
        true => Ok(rest),
        false => Err(malformed()),
    }
}

/// The checksum of an authenticator: no channel bindings, and these flags.
pub(crate) fn checksum(flags: u32) -> Vec<u8> {
    let mut bytes = (BINDINGS_LEN as u32).to_le_bytes().to_vec();
    bytes.resize(4 + BINDINGS_LEN, 0);
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes
}

/// Checks the flags of an authenticator's checksum. A ticket-granting ticket that is delegated with it is not
/// read.
pub(crate) fn check_flags(checksum: Option<&(i32, Vec<u8>)>, level: AuthLevel) -> Result<(), Refusal> {
    let refuse = |detail: String| Err(Refusal::new(RefusalReason::Flags, detail));
    let Some((number, bytes)) = checksum else {
        return refuse("the authenticator has no checksum".to_owned());
    };
    if *number != CHECKSUM_TYPE {
        return refuse(format!("the authenticator's checksum has type {number}"));
    }
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let len = reader.u32("Lgth")?;
        reader.take("Bnd", BINDINGS_LEN)?;
        Ok((len, reader.u32("Flags")?))
    };
    let flags = match read() {
        Ok((len, flags)) if len as usize == BINDINGS_LEN => flags,
        Ok(_) => return refuse("the authenticator's checksum is malformed".to_owned()),
        Err::<_, dtyp::DecodeError>(_) => {
            return refuse("the authenticator's checksum is malformed".to_owned());
        }
    };
    let has = |flag| flags & flag == flag;
    if !has(DCE_STYLE | MUTUAL) || !(has(SEQUENCE) || has(REPLAY)) {
        return refuse(format!("flags={flags:#x}"));
    }
    // At the level `connect` nothing is protected, and Samba asks for neither.
    if level > AuthLevel::CONNECT && !has(INTEGRITY) {
        return Err(Refusal::new(RefusalReason::Level, format!("flags={flags:#x} without integrity")));
    }
    if level >= AuthLevel::PRIVACY && !has(CONFIDENTIALITY) {
        return Err(Refusal::new(RefusalReason::Level, format!("flags={flags:#x} without confidentiality")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::test::unhex;

    #[test]
    fn takes_the_frame_off() {
        let framed = unhex("6012 06092a864886f712010202 0100 6e03616263");
        assert_eq!(unframe(&framed), Ok(&b"\x6e\x03abc"[..]));
        assert_eq!(unframe(&unhex("6012 06092a864882f712010202 0100 6e03616263")), Ok(&b"\x6e\x03abc"[..]));
        assert_eq!(unframe(b"\x6e\x03abc"), Ok(&b"\x6e\x03abc"[..]));
        for bad in [
            "6012 06092a864886f712010203 0100 6e03616263",
            "6012 06092a864886f712010202 0200 6e03616263",
            "6013 06092a864886f712010202 0100 6e03616263",
            "6011 06092a864886f712010202 0100 6e03616263",
            "60",
        ] {
            assert!(unframe(&unhex(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn asks_for_the_flags_that_the_level_needs() {
        let check = |flags, level| {
            check_flags(Some(&(CHECKSUM_TYPE, checksum(flags))), level).map_err(|refusal| refusal.reason)
        };
        assert_eq!(check(0x103e, AuthLevel::PRIVACY), Ok(()), "Impacket");
        assert_eq!(check(0x113e, AuthLevel::PRIVACY), Ok(()), "MIT");
        assert_eq!(check(0x913f, AuthLevel::PRIVACY), Ok(()), "Samba");
        assert_eq!(check(0x102e, AuthLevel::PRIVACY), Err(RefusalReason::Level));
        assert_eq!(check(0x102e, AuthLevel::INTEGRITY), Ok(()));
        assert_eq!(check(0x110e, AuthLevel::CONNECT), Ok(()), "Samba at the level connect");
        assert_eq!(check(0x110e, AuthLevel::INTEGRITY), Err(RefusalReason::Level));
        assert_eq!(check(0x111e, AuthLevel::PRIVACY), Err(RefusalReason::Level));
        for missing in [DCE_STYLE, MUTUAL, SEQUENCE | REPLAY] {
            assert_eq!(
                check(0x103e & !missing, AuthLevel::PRIVACY),
                Err(RefusalReason::Flags),
                "{missing:#x}"
            );
        }
        assert!(check_flags(None, AuthLevel::INTEGRITY).is_err());
        assert!(check_flags(Some(&(16, checksum(ASKED))), AuthLevel::INTEGRITY).is_err());
        assert!(
            check_flags(Some(&(CHECKSUM_TYPE, checksum(ASKED)[..23].to_vec())), AuthLevel::INTEGRITY)
                .is_err()
        );
    }
}
