//! `X-Forwarded-Client-Cert`, as Envoy writes it: elements separated by commas, one for each proxy on the
//! way; `key=value` pairs separated by semicolons; values that hold separators in double quotes, with `\"`
//! for a quote.
//!
//! Envoy writes the values of `By`, `URI` and `DNS` without quotes, whatever is in them. `URI` and `DNS` come
//! last and are not read, so all of the rest belongs to them, if nothing in it looks like the beginning of
//! another element or a key that is read: each element has `Hash`.
//!
//! Only the proxy in front reports a handshake that it has seen, so there must be one element. If there are
//! more, a hop has appended to the header, and it cannot be told which element is the proxy's.

use super::{ClientCertificate, encoding};
use crate::refusal::{Broken, Refusal};

const UNREADABLE: Refusal = Refusal::Broken(Broken::Certificate);

/// The certificate of the one element.
pub(super) fn presented(value: &[u8]) -> Result<ClientCertificate, Refusal> {
    let (mut leaf, mut chain, mut hash) = (None, None, None);
    let mut rest = value;
    loop {
        if let Some(names) = unquoted_names(rest) {
            if has_key(names) {
                return Err(Refusal::Broken(Broken::ManyCertificates));
            }
            break;
        }
        let (key, value, after) = pair(rest)?;
        // A key with other characters is the beginning of another element.
        if !key.iter().all(u8::is_ascii_alphanumeric) {
            return Err(Refusal::Broken(Broken::ManyCertificates));
        }
        let slot = match key.to_ascii_lowercase().as_slice() {
            b"cert" => Some(&mut leaf),
            b"chain" => Some(&mut chain),
            b"hash" => Some(&mut hash),
            // By, Subject, URI, DNS: said of the certificate, which says it better.
            _ => None,
        };
        if let Some(slot) = slot
            && slot.replace(value).is_some()
        {
            return Err(Refusal::Broken(Broken::Twice));
        }
        match after {
            [] => break,
            [b';', after @ ..] => rest = after,
            _ => return Err(Refusal::Broken(Broken::ManyCertificates)),
        }
    }
    // Chain is the whole of what the client sent, its own certificate first.
    let mut certificates = match chain {
        Some(chain) => encoding::escaped_pems(&chain)?,
        None => Vec::new(),
    }
    .into_iter();
    let first = certificates.next();
    let leaf = leaf.filter(|leaf: &Vec<u8>| !leaf.is_empty());
    let leaf = match (leaf, first) {
        (Some(leaf), first) => {
            let leaf = encoding::escaped_pem(&leaf)?;
            if first.is_some_and(|first| first != leaf) {
                return Err(Refusal::Broken(Broken::Contradiction));
            }
            leaf.into()
        }
        (None, Some(first)) => first,
        // Envoy writes the hash in any case, and the certificate where it is told to. A hash alone is no
        // account's certificate.
        (None, None) if hash.is_some() => return Err(Refusal::Broken(Broken::NoXfccCertificate)),
        (None, None) => return Err(UNREADABLE),
    };
    let presented = ClientCertificate::new(leaf, certificates.collect())?;
    if hash.is_some_and(|hash| !dtyp::hex(&presented.sha256).as_bytes().eq_ignore_ascii_case(&hash)) {
        return Err(Refusal::Broken(Broken::Contradiction));
    }
    Ok(presented)
}

/// What follows `URI=` or `DNS=` without quotes, which may hold separators. A value without any is read like
/// others.
fn unquoted_names(text: &[u8]) -> Option<&[u8]> {
    let (key, names) = text.split_at_checked(4)?;
    let is_key = key.eq_ignore_ascii_case(b"uri=") || key.eq_ignore_ascii_case(b"dns=");
    (is_key && !names.starts_with(b"\"")).then_some(names)
}

/// Whether something in a text looks like a key of an element, other than `URI` and `DNS`.
fn has_key(text: &[u8]) -> bool {
    const KEYS: [&[u8]; 5] = [b"by", b"hash", b"cert", b"chain", b"subject"];
    text.split(|byte| matches!(byte, b';' | b',')).skip(1).any(|part| {
        let key = part.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        part.contains(&b'=') && KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))
    })
}

type Pair<'a> = (&'a [u8], Vec<u8>, &'a [u8]);

/// The first `key=value`, the value unquoted, and what follows with its separator.
fn pair(text: &[u8]) -> Result<Pair<'_>, Refusal> {
    let equals = text.iter().position(|byte| *byte == b'=').ok_or(UNREADABLE)?;
    let (key, after) = (&text[..equals], &text[equals + 1..]);
    let Some(quoted) = after.strip_prefix(b"\"") else {
        let end = after.iter().position(|byte| matches!(byte, b';' | b',')).unwrap_or(after.len());
        return Ok((key.trim_ascii(), after[..end].to_vec(), &after[end..]));
    };
    let mut value = Vec::with_capacity(quoted.len());
    let mut at = 0;
    loop {
        match (quoted.get(at), quoted.get(at + 1)) {
            (Some(b'"'), _) => return Ok((key.trim_ascii(), value, &quoted[at + 1..])),
            (Some(b'\\'), Some(escaped)) => {
                value.push(*escaped);
                at += 2;
            }
            (Some(byte), _) => {
                value.push(*byte);
                at += 1;
            }
            (None, _) => return Err(UNREADABLE),
        }
    }
}
