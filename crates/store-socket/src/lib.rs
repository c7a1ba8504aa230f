//! A read-only store of accounts that a program in any language answers for, over a Unix socket.
//!
//! A reader may rely on this:
//!
//! - The program finds candidates, and the comparison of `account-store` decides which of them match.
//! - A connection carries one question at a time. An answer has the number of its question, which no other
//!   question of this store has. If an answer is late, doubled, unknown or malformed, the connection is closed,
//!   so no answer is taken for that of another question.
//! - Only the answer to a question is absence. Everything else is an error.
//! - What the program sends is bounded ([`wire`]), and so are connections, questions and the time of each.
//!
//! docs/socket-store.md has the protocol.

mod connection;
mod failed;
mod meter;
mod record;
mod settings;
mod store;
pub mod wire;

pub use meter::{Meter, STEPS};
pub use settings::{CheckPlace, Settings};
pub use store::SocketStore;

use account_store::{Domain, Query, Record};

/// For the fuzzer: reads a body as the hello of a program, and as its answer to question 7. Returns the
/// accounts of the answer, or why it is refused.
#[doc(hidden)]
pub fn read_any(domain: &Domain, body: &[u8]) -> Result<Vec<Record>, String> {
    drop(wire::read_hello(body, domain));
    drop(wire::read_answer(body, 7, wire::Ask::Revision));
    let query = Query::Name(String::new());
    let answer =
        wire::read_answer(body, 7, wire::Ask::Accounts(&query)).map_err(|error| error.to_string())?;
    let records = answer.accounts.into_iter().map(|candidate| record::record(domain, candidate));
    records.collect::<Result<_, _>>().map_err(|error| error.to_string())
}
