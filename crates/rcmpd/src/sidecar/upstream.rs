//! The application behind the sidecar; requests do not reach it yet.

use crate::config::UpstreamPlace;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

/// A body, whoever makes it.
pub(super) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Who is in front.
pub(super) enum Behind {
    /// A proxy that tells of its clients itself.
    Proxy,
}

/// An application.
pub(super) struct Upstream;

impl Upstream {
    pub(super) fn new(_: &UpstreamPlace) -> Self {
        Self
    }

    pub(super) async fn forward(&self, _: Request<Incoming>, _: Behind) -> Response<Body> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        whole(response)
    }
}

/// A whole answer as a stream.
pub(super) fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}
