//! What the tests of this crate share: the worked example of the digest of [MS-RCMP], section 2.3.

/// The certificate of alice, made with keys and a signature that anybody can make again.
pub(crate) const ALICE: &str = include_str!("../tests/tables/worked/alice.hex");
/// Its issuer.
pub(crate) const ISSUER: &str = include_str!("../tests/tables/worked/issuer.hex");
/// The issuer's issuer.
pub(crate) const ROOT: &str = include_str!("../tests/tables/worked/root.hex");

/// Bytes from hex, white space aside.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect()
}

/// The SHA-256 by which the digest names a message.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    dtyp::hex(&sha2::Sha256::digest(bytes))
}
