//! The secret by which a proxy proves itself.

use http::{HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The header in which a proxy shows the listener's secret.
pub const SECRET: HeaderName = HeaderName::from_static("x-sidecar-secret");

/// Whether a proxy shows the listener's secret, once.
pub fn shows_secret(headers: &HeaderMap, secret: &Zeroizing<String>) -> bool {
    let mut values = headers.get_all(SECRET).iter();
    let (value, more) = (values.next(), values.next());
    let is_it = |value: &HeaderValue| bool::from(value.as_bytes().ct_eq(secret.as_bytes()));
    more.is_none() && value.is_some_and(is_it)
}
