//! What the tests of this crate share.

/// Bytes from hex, white space aside.
pub(crate) fn unhex_vec(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect()
}

/// The same as an array.
pub(crate) fn unhex<const N: usize>(text: &str) -> [u8; N] {
    unhex_vec(text).try_into().expect("as many bytes as asked for")
}
