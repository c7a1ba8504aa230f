//! Files that commands read. `-` is standard input.

use std::io::{self, Read};
use std::path::Path;

/// Whether a path is `-`: standard input, or standard output of a command that writes.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The bytes of a file or of standard input.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !is_standard(path) {
        return std::fs::read(path);
    }
    // Room for a secret, so that no part of it is left where the buffer was before it grew.
    let mut bytes = Vec::with_capacity(1 << 12);
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}
