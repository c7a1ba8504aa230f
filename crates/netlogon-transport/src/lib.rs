//! [MS-NRPC], the Netlogon Remote Protocol, as far as generic pass-through needs it: server and client of the secure
//! channel.
//!
//! The cipher is AES and calls are sealed, or they are not answered; weaker forms are not written. Nothing here
//! opens a socket or starts a task: the server is a service over calls, the client a conversation over a connection
//! that somebody else holds.

pub mod cfb8;
pub mod client;
pub mod credential;
pub mod flags;
mod keys;
pub mod message;
pub mod package;
pub mod protection;
mod sealer;
pub mod secret;
pub mod secrets;
pub mod server;
#[cfg(test)]
mod test;
