//! The PDUs of the connection-oriented protocol (\[C706\] 12.6, [MS-RPCE] 2.2.2).
//!
//! A PDU is decoded in two steps, because a reader of a stream must know its length first: [`Header`], then
//! the body by its type. What follows a body, a security trailer and its token, is split off by
//! [`split_auth`].

mod bind;
mod call;
mod header;
mod sec_trailer;
mod syntax;

pub use bind::{Bind, BindAck, BindNak, BindNakReason, ContextElement, ContextResult, ResultReason};
pub use call::{FaultBody, FaultStatus, RequestHead, ResponseHead};
pub use header::{Header, PacketFlags, PacketType, finish_pdu, start_pdu};
pub use sec_trailer::{AuthLevel, AuthType, AuthVerifier, SecTrailer, split_auth};
pub use syntax::{Features, SyntaxId};
