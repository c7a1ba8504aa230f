//! Tickets: a stranger's do not open; ours open in their time alone; and claims have one form.

use crate::Choices;
use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use dtyp::{FileTime, Sid};
use hkdf::Hkdf;
use sha2::Sha256;
use std::time::Duration;
use ticket::{
    CLOCK_SKEW, Claims, DATA_MAX, LIFETIME_MAX, MemoryRedemption, Name, Root, Roots, SALT_LEN, STATE_MAX,
    TICKET_MAX, from_cookie, open_reusable, open_state, redeem, seal_once, seal_reusable, seal_state,
    to_cookie,
};

const ROOT: [u8; 32] = [3; 32];
const SALT: [u8; SALT_LEN] = [4; SALT_LEN];

/// Reads `bytes` as a ticket, as a cookie, as what is sealed in a ticket, and as claims to seal.
pub fn check(bytes: &[u8]) {
    let roots = Roots::new(vec![Root::new(1, ROOT)]).expect("a root");
    let (purpose, audience) = (Name::new("fuzz").expect("a name"), Name::new("a").expect("a name"));
    let certificate = [5; 32];
    let start = FileTime::from_unix(1_800_000_000);
    open_reusable(&roots, &purpose, &audience, &certificate, start, bytes)
        .expect_err("it was not sealed here");
    open_state(&roots, &purpose, &audience, start, bytes).expect_err("it was not sealed here");
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(ticket) = from_cookie(text)
    {
        assert!(ticket.len() <= TICKET_MAX + 2);
        assert_eq!(to_cookie(&ticket), text, "there is one text for each ticket");
    }

    // What a holder of the root could seal.
    for kind in [1, 2] {
        let ticket = sealed(kind, bytes);
        let mut choices = Choices(bytes);
        let now = FileTime(u64::from_le_bytes(choices.take(8).try_into().unwrap_or_default()));
        let length = usize::from(bytes.get(16).copied().unwrap_or(0));
        let audience = bytes.get(17..17 + length).and_then(|text| Name::new(std::str::from_utf8(text).ok()?));
        let audience = audience.unwrap_or_else(|| Name::new("a").expect("a name"));
        match kind {
            1 => {
                // The certificate is wherever the SID ends.
                let Some(bound) = bytes.get(17 + length..).and_then(after_sid) else { continue };
                if let Ok(claims) = open_reusable(&roots, &purpose, &audience, bound, now, &ticket) {
                    assert_eq!(seal_reusable(&roots, &purpose, &claims, bound, SALT), Ok(ticket));
                }
            }
            _ => {
                let store = MemoryRedemption::new(1);
                let redeemed = || crate::now(redeem(&roots, &purpose, &audience, now, &ticket, &store));
                if let Ok(claims) = redeemed() {
                    redeemed().expect_err("it counts once");
                    assert_eq!(seal_once(&roots, &purpose, &claims, SALT), Ok(ticket));
                }
            }
        }
    }

    // State: what stands behind the time and the audience.
    let ticket = sealed(3, bytes);
    let expires = FileTime(u64::from_le_bytes(Choices(bytes).take(8).try_into().unwrap_or_default()));
    let length = usize::from(bytes.get(8).copied().unwrap_or(0));
    let named = bytes.get(9..9 + length).and_then(|text| Name::new(std::str::from_utf8(text).ok()?));
    let opened = |now, audience: &Name| open_state(&roots, &purpose, audience, now, &ticket);
    match named {
        Some(named) if expires > FileTime(0) && bytes.len() - (9 + length) <= STATE_MAX => {
            let state = opened(FileTime(expires.0 - 1), &named).expect("it has not expired");
            let sealed = seal_state(&roots, &purpose, &named, (&state, expires), SALT);
            assert_eq!(sealed.as_ref(), Ok(&ticket));
            opened(expires, &named).expect_err("it has expired");
        }
        _ => drop(opened(FileTime(0), &audience).expect_err("it is none")),
    }

    // Claims of ours, at some moment.
    let mut choices = Choices(bytes);
    let seconds = |word: u16| Duration::from_secs(u64::from(word) * 2);
    let (lifetime, moment, is_early) =
        (seconds(choices.word()), seconds(choices.word()), choices.byte() & 1 == 1);
    let sub_authorities: Vec<u32> = (0..choices.byte() % 16).map(|_| u32::from(choices.word())).collect();
    let claims = Claims {
        issued: start,
        expires: start + lifetime,
        audience: audience.clone(),
        account: Sid::new(5, &sub_authorities).expect("at most 15"),
        data: choices.take(bytes.len()).to_vec(),
    };
    let sealed = seal_reusable(&roots, &purpose, &claims, &certificate, SALT);
    let may = !lifetime.is_zero() && lifetime <= LIFETIME_MAX && claims.data.len() <= DATA_MAX;
    assert_eq!(sealed.is_ok(), may);
    let Ok(ticket) = sealed else { return };
    assert!(ticket.len() <= TICKET_MAX);
    assert_eq!(from_cookie(&to_cookie(&ticket)).as_ref(), Ok(&ticket));
    let now = if is_early { start - moment } else { start + moment };
    let opened = open_reusable(&roots, &purpose, &audience, &certificate, now, &ticket);
    let counts = if is_early { moment <= CLOCK_SKEW } else { moment < lifetime };
    assert_eq!(opened.ok(), counts.then_some(claims));
}

/// What stands behind a SID.
fn after_sid(bytes: &[u8]) -> Option<&[u8; 32]> {
    let count = usize::from(*bytes.get(1)?);
    bytes.get(8 + 4 * count..)?.first_chunk()
}

/// A ticket around these octets, as the documentation of the format has it.
fn sealed(kind: u8, claims: &[u8]) -> Vec<u8> {
    let mut derived = [0; 44];
    Hkdf::<Sha256>::new(Some(&SALT), &ROOT).expand(b"rcmpd ticket 1: fuzz", &mut derived).expect("44 octets");
    let mut ticket = [[1, kind].as_slice(), &1u32.to_le_bytes(), &SALT].concat();
    let (key, nonce) = derived.split_first_chunk::<32>().expect("44 octets");
    let nonce: [u8; 12] = nonce.try_into().expect("44 octets");
    let cipher = Aes256GcmSiv::new(key.into());
    let sealed =
        cipher.encrypt(&Nonce::from(nonce), Payload { msg: claims, aad: &ticket }).expect("it is short");
    ticket.extend(sealed);
    ticket
}
