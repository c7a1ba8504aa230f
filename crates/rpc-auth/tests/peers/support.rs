//! What the tests with foreign programs share.

use dcerpc::security::AuthLevel;
use dtyp::FileTime;
use rpc_auth::{Acceptor, Leg, Refusal, Step};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

/// Where `tests/peers/install` puts what is not the system's.
pub(crate) fn private() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/private");
    std::env::var_os("RCMPD_PRIVATE").map_or(here, PathBuf::from)
}

/// A script of `tests/peers`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers").join(name)
}

pub(crate) fn now() -> FileTime {
    FileTime::from(SystemTime::now())
}

pub(crate) fn random(bytes: &mut [u8]) {
    fs::File::open("/dev/urandom").expect("random bytes").read_exact(bytes).expect("random bytes");
}

/// One line of JSON without nesting and without escapes.
pub(crate) struct Answer(pub(crate) String);

impl Answer {
    pub(crate) fn text(&self, field: &str) -> &str {
        let start =
            self.0.find(&format!("\"{field}\": \"")).unwrap_or_else(|| panic!("no {field} in {}", self.0));
        let value = &self.0[start + field.len() + 5..];
        &value[..value.find('"').expect("JSON")]
    }

    pub(crate) fn bytes(&self, field: &str) -> Vec<u8> {
        let text = self.text(field);
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    pub(crate) fn is_error(&self) -> bool {
        self.0.starts_with("{\"error\"")
    }
}

pub(crate) fn accept(acceptor: Box<dyn Acceptor>, token: &[u8]) -> Result<Step, Refusal> {
    let mut entropy = random;
    let leg = Leg { token, level: AuthLevel::PRIVACY, now: now(), entropy: &mut entropy };
    ready(acceptor.accept(leg))
}

pub(crate) fn ready<T>(mut future: impl Future<Output = T> + Unpin) -> T {
    match std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing to wait for"),
    }
}
