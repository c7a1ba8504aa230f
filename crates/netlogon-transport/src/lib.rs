//! [MS-NRPC], the Netlogon Remote Protocol, as far as generic pass-through needs it: server and client of the
//! secure channel.
//!
//! The cipher is AES and calls are sealed; weaker forms are not implemented, and such calls are refused.
//! Nothing here opens a socket or starts a task: the server is a tower service of calls, and the client uses
//! connections of a [`client::Transport`].

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
