//! Privilege attribute certificates.

use dtyp::{Decode, Encode, Sid};
use pac::{BufferType, ClientInfo, LogonInfo, Pac, UpnDnsInfo, VerifiedPac};
use std::fmt::Debug;

/// Reads `bytes` as a PAC and as each of its buffers.
pub fn check(bytes: &[u8]) {
    if let Ok(pac) = Pac::from_bytes("PACTYPE", bytes) {
        assert_eq!(Pac::from_bytes("PACTYPE", &pac.to_bytes()).as_ref(), Ok(&pac));
        for buffer in &pac.buffers {
            match buffer.buffer_type {
                BufferType::LOGON_INFO => logon_info(&buffer.data),
                BufferType::CLIENT_INFO => again::<ClientInfo>(&buffer.data),
                BufferType::UPN_DNS_INFO => upn_dns_info(&buffer.data),
                BufferType::REQUESTOR_SID => again::<Sid>(&buffer.data),
                _ => {}
            }
        }
    }
    logon_info(bytes);
    if let Ok(verified) = VerifiedPac::decode(bytes) {
        let sid = verified.user_sid;
        assert_eq!(verified.logon_info.user_sid(), Some(sid));
        assert!(verified.requestor_sid.is_none_or(|requestor| requestor == sid));
        let _ = verified.logon_info.groups();
    }
}

fn logon_info(bytes: &[u8]) {
    if let Ok(info) = LogonInfo::decode(bytes) {
        let mut written = Vec::new();
        info.encode(&mut written);
        assert_eq!(LogonInfo::decode(&written).as_ref(), Ok(&info));
    }
}

/// Its offsets have 16 bits, and pieces that overlap when they are read may not fit side by side.
fn upn_dns_info(bytes: &[u8]) {
    if bytes.len() < 8 * 1024 {
        again::<UpnDnsInfo>(bytes);
    }
}

/// What is read is written and read again, the same.
fn again<T: for<'a> Decode<'a> + Encode + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(value) = T::from_bytes("buffer", bytes) {
        assert_eq!(T::from_bytes("buffer", &value.to_bytes()).as_ref(), Ok(&value));
    }
}
