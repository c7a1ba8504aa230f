//! Oracles: each takes any bytes and panics when what we make of them breaks a promise.
//!
//! The promises are of three kinds: nothing panics; what was read can be written and is read the same again;
//! and where a reader of another program exists, it sees what we see.

pub mod ap_req;
pub mod association;
pub mod blob;
pub mod ccache;
pub mod certificate;
pub mod chain;
pub mod context;
pub mod cookie;
pub mod crl;
pub mod dialect;
pub mod foreign;
pub mod keytab;
pub mod ldap;
pub mod message;
pub mod name;
pub mod ndr;
pub mod negotiation;
pub mod ntlm;
pub mod ocsp;
pub mod pac;
pub mod path;
pub mod pdu;
pub mod pem;
pub mod proof;
pub mod rcmp;
pub mod sealed;
pub mod sessions;
mod signed;
pub mod soap;
pub mod socket;
pub mod spnego;
pub mod ticket;

/// Bytes as a source of choices: zeroes when there are no more.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// At most `len` bytes.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// DER of a tag, the length and the contents, one after the other.
fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let mut encoded = vec![tag];
    match contents.len() {
        len @ 0..0x80 => encoded.push(len as u8),
        len @ 0x80..0x100 => encoded.extend([0x81, len as u8]),
        len @ 0x100..0x1_0000 => encoded.extend([0x82, (len >> 8) as u8, len as u8]),
        len => {
            encoded.push(0x84);
            encoded.extend((len as u32).to_be_bytes());
        }
    }
    encoded.extend(contents);
    encoded
}

/// Runs a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("there is nothing to wait for"),
    }
}
