//! What a web server needs to know about whoever showed a client certificate: whether to let in, and who that is.
//!
//! ```text
//! a proxy's request ─► dialect: which certificate did the handshake prove? ─► Identify: who is that? ─► routes: may that one in?
//!                                                                                      └► remembered        └► headers, token
//! ```
//!
//! There is no socket here and no clock: requests come in as `http` values, whoever carries them has made sure that they are the
//! proxy's. Three things are never mixed up: nobody (401), somebody who may not (403), and whatever is broken (500), which is never a
//! denial in disguise.

mod allowed;
mod cache;
mod decide;
pub mod dialect;
pub mod forwarding;
pub mod headers;
mod identity;
mod limits;
mod meter;
pub mod proxy_config;
mod refusal;
pub mod routes;
#[cfg(test)]
mod scene;
mod secret;
pub mod token;

pub use allowed::Allowed;
pub use cache::Moment;
pub use decide::{Ask, Decided, Parts, Sidecar};
pub use dialect::{Dialect, Presented};
pub use identity::{Assurance, Group, Identify, Identity, Standing};
pub use meter::Meter;
pub use refusal::{Broken, Outcome, Refusal};
pub use secret::{SECRET, shows_secret};
