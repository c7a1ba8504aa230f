//! Small values of the Windows protocols ([MS-DTYP], [MS-ERREF]) and the one door for bytes from a peer.
//!
//! A reader may rely on this: decoding never panics, never allocates by a length that the peer claims, and
//! never reads outside the bytes it was given. There are no sockets, clocks or randomness in this crate.

mod bytes;
mod file_time;
mod guid;
mod sid;
mod status;

pub use bytes::{
    ByteOrder, Decode, DecodeError, DecodeErrorKind, Encode, Reader, hex, read_hex, utf16le, utf16le_text,
};
pub use file_time::FileTime;
pub use guid::{Guid, ParseGuidError};
pub use sid::{ParseSidError, Sid};
pub use status::NtStatus;
