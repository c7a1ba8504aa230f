//! DCE/RPC without sockets: PDUs, NDR, associations, the endpoint mapper's and the management interface's
//! messages (\[C706\], [MS-RPCE]).
//!
//! Nothing here opens a socket, starts a task, reads a clock or draws a random number.

pub mod association_group;
pub mod backoff;
pub mod client;
pub mod endpoint_mapper;
mod fragmentation;
pub mod limits;
pub mod management;
pub mod ndr;
pub mod pdu;
pub mod quota;
pub mod security;
pub mod server;
#[cfg(test)]
mod test;
mod verification_trailer;
