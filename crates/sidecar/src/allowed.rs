//! A decision that lets a client in.

use crate::identity::Identity;
use crate::refusal::Refusal;
use http::HeaderMap;
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
    /// By route, in their order: whether it lets in.
    pub(crate) admitted: Vec<Result<(), Refusal>>,
    /// By audience of routes: the same with a token for that audience, made for the first request that needs it.
    pub(crate) for_audience: Box<[OnceLock<Arc<Allowed>>]>,
}
