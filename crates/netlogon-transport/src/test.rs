//! What the tests of this crate share.

/// Bytes from hex, white space aside.
pub(crate) fn unhex_vec(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let mut bytes = vec![0; digits.len() / 2];
    dtyp::read_hex(&digits, &mut bytes).expect("hex digits in pairs");
    bytes
}

/// The same as an array.
pub(crate) fn unhex<const N: usize>(text: &str) -> [u8; N] {
    unhex_vec(text).try_into().expect("as many bytes as asked for")
}
