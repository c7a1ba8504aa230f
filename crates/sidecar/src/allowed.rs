//! A decision that lets a client in.

use crate::identity::Identity;
use crate::refusal::Refusal;
use http::{HeaderMap, HeaderValue};
use std::sync::{Arc, OnceLock};

/// A decision that lets a client in, with the headers of its identity.
#[derive(Debug)]
pub struct Allowed {
    /// The account.
    pub identity: Identity,
    /// The headers that say so, all that are advertised.
    pub headers: HeaderMap,
    /// Names the decision in the audit.
    pub decision: String,
    /// `Set-Cookie` with a ticket for the decision; none if it was made by a ticket, or no tickets are
    /// configured.
    pub(crate) set_cookie: Option<HeaderValue>,
    /// By route, in their order: whether it lets in.
    pub(crate) admitted: Vec<Result<(), Refusal>>,
    /// By audience of routes: the same with a token for that audience, made for the first request that needs
    /// it.
    pub(crate) for_audience: Box<[OnceLock<Arc<Allowed>>]>,
}
