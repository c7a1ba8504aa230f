//! What a web server needs to know about a client certificate: whether its owner is let in, and as which
//! account.
//!
//! ```text
//! a proxy's request ─► dialect: which certificate did the handshake prove? ─► Identify: which account? ─► routes: is it let in?
//!                                                                                      └► cached, ticket    └► headers, token
//! ```
//!
//! There is no socket here and no clock: requests come in as `http` values, and the caller has checked that
//! the proxy sent them. Three outcomes are kept apart: no client certificate (401), not let in (403), and not
//! decided (500). A 500 is never used for a denial.

mod allowed;
mod answers;
mod cache;
mod cookies;
mod decide;
mod decision;
pub mod dialect;
pub mod forwarding;
pub mod headers;
mod identity;
mod limits;
mod meter;
pub mod proxy_config;
mod references;
mod refusal;
pub mod routes;
#[cfg(test)]
mod scene;
mod secret;
mod spans;
mod tickets;
pub mod token;

pub use allowed::Allowed;
pub use cache::Moment;
pub use cookies::{CookieName, Cookies};
pub use decide::{Ask, Parts, Sidecar};
pub use decision::{Decided, Decision};
pub use dialect::{ClientCertificate, Dialect};
pub use identity::{Assurance, DecisionInputs, Group, Identify, Identity};
pub use meter::{How, Meter};
pub use references::SharedReferences;
pub use refusal::{Broken, NotMapped, Outcome, Refusal, Undecided};
pub use secret::{SECRET, shows_secret};
pub use spans::{NoSpans, RequestHead, Spans};
pub use tickets::{Farm, POLICY_LEN};
