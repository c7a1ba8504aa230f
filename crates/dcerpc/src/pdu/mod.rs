//! The PDUs of the connection-oriented protocol ([C706] 12.6, [MS-RPCE] 2.2.2).

mod sec_trailer;

pub use sec_trailer::SecTrailer;
