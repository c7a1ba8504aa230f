//! The state of a session in its cookie: what is read is written the same again.

use dtyp::{Decode, Encode, Reader};
use tlsnego_service::session::{CookieState, SessionKind};

/// Reads `bytes` as the state in a cookie.
pub fn check(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let Ok(state) = CookieState::decode(&mut reader) else { return };
    let mut written = Vec::new();
    state.encode(&mut written);
    assert_eq!(written, bytes[..reader.position()]);
    assert_ne!(state.session.kind, SessionKind::OneShot);
    assert!([16, 24, 32].contains(&state.key.as_bytes().len()));
}
