//! The same questions over HTTP/2, which a web server reads by other code: names are lower case there, and
//! nothing is hop-by-hop.

use super::Run;
use super::findings::{Seen, Tally};
use super::identity::EchoedRequest;
use super::proxy::{Answer, Outcome};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use sidecar::forwarding;
use std::convert::Infallible;
use std::sync::Arc;

/// The protocol's name in the handshake (RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";
/// What is read of an answer.
const BODY_LEN_MAX: usize = 1 << 20;

/// Headers of a request, and what follows its body.
#[derive(Clone, Debug, Default)]
struct Said {
    method: Method,
    authority: Option<&'static str>,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
}

impl Said {
    fn headers(headers: HeaderMap) -> Self {
        Self { headers, ..Self::default() }
    }
}

impl Run {
    pub(super) async fn http2(&self) -> Tally {
        let mut tally = Tally::default();
        let speaks = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![ALPN.to_vec()];
            Arc::new(config)
        };
        let (us, anonymous, twin) = (speaks(&self.us), speaks(&self.anonymous), speaks(&self.twin));
        match self.proxy.open(&us, None).await {
            Ok(secured) if secured.stream.get_ref().1.alpn_protocol() == Some(ALPN) => {}
            // Without a common protocol there is no handshake (RFC 7301, section 3.2).
            Ok(_) | Err(Outcome::Refused(_)) => {
                tally.add("the handshake", Seen::Untold("HTTP/2 is not spoken".to_owned()));
                return tally;
            }
            Err(outcome) => {
                tally.add("the handshake", super::unanswered(&outcome));
                return tally;
            }
        }
        let headers = |pairs: &[(String, String)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("names are letters and hyphens");
                (name, HeaderValue::from_str(value).expect("values are visible"))
            });
            let mut headers = HeaderMap::new();
            pairs.for_each(|(name, value)| _ = headers.append(name, value));
            headers
        };
        let forged = |alias: &dyn Fn(&str) -> String| -> Vec<(String, String)> {
            self.names.iter().map(|name| (alias(name), self.nonce.clone())).collect()
        };
        let plain = forged(&|name| name.to_owned());
        let forms = [
            ("identity headers", plain.clone()),
            ("identity headers with _ for -", forged(&|name| name.replace('-', "_"))),
            ("identity headers doubled", [plain.clone(), plain.clone()].concat()),
        ];

        // Where not even the certificate is let in, refusals prove nothing.
        let outcome = self.say(&us, Said::default()).await;
        let seen = match &outcome {
            Outcome::Answered(answer) if answer.status == self.status => self.ours(&outcome),
            outcome => super::unanswered(outcome),
        };
        tally.add("the certificate", seen);
        let forwarding: Vec<(String, String)> =
            forwarding::NAMES.iter().map(|name| ((*name).to_owned(), self.nonce.clone())).collect();
        let outcome = self.say(&us, Said::headers(headers(&forwarding))).await;
        tally.add("forwarding headers", self.without_forwarding(&outcome));
        for (label, pairs) in &forms {
            let outcome = self.say(&us, Said::headers(headers(pairs))).await;
            tally.add(label, self.ours(&outcome));
            // One that is refused may hide others that are not.
            if !matches!(&outcome, Outcome::Answered(answer) if answer.told.is_some()) {
                for pair in pairs {
                    let outcome = self.say(&us, Said::headers(headers(std::slice::from_ref(pair)))).await;
                    tally.add(&format!("{} by itself", pair.0), self.ours(&outcome));
                }
            }
        }
        if self.baseline.is_some() {
            let trailers = Some(headers(&plain));
            let said = Said { method: Method::POST, trailers, ..Said::default() };
            tally.add("identity headers in a trailer", self.ours(&self.say(&us, said).await));
        }
        let strangers = [("without a certificate", &anonymous), ("with a certificate of another CA", &twin)];
        for (who, config) in strangers {
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                let label = format!("{method} {who}");
                let outcome = self.say(config, Said { method, ..Said::default() }).await;
                tally.add(&label, self.rejected(&outcome));
            }
            let said = Said { authority: Some(super::requests::OTHER_HOST), ..Said::default() };
            tally.add(&format!("another host {who}"), self.rejected(&self.say(config, said).await));
            for (label, pairs) in &forms {
                let outcome = self.say(config, Said::headers(headers(pairs))).await;
                tally.add(&format!("{label} {who}"), self.rejected_page(&outcome));
            }
            for (label, lines) in Self::dialects(&self.certificate) {
                let pairs: Vec<(String, String)> = lines
                    .iter()
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                    .collect();
                let outcome = self.say(config, Said::headers(headers(&pairs))).await;
                tally.add(&format!("the certificate for {label} {who}"), self.rejected_page(&outcome));
            }
        }
        tally
    }

    /// One request over a connection of its own, and its answer. An answer that does not come is asked for
    /// once more: some hundred requests are made, and one lost connection would leave all of them unchecked.
    async fn say(&self, config: &Arc<ClientConfig>, said: Said) -> Outcome {
        match self.say_once(config, said.clone()).await {
            Outcome::Late => self.say_once(config, said).await,
            outcome => outcome,
        }
    }

    async fn say_once(&self, config: &Arc<ClientConfig>, said: Said) -> Outcome {
        let secured = match self.proxy.open(config, None).await {
            Ok(secured) => secured,
            Err(outcome) => return outcome,
        };
        match tokio::time::timeout(self.proxy.timeout, self.exchange_http2(secured.stream, said)).await {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(error)) => Outcome::Refused(error.to_string()),
            Err(_) => Outcome::Late,
        }
    }

    async fn exchange_http2<S>(&self, stream: S, said: Said) -> anyhow::Result<Answer>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends with the sender.
        let connection = tokio::spawn(connection);
        let body: BoxBody<Bytes, Infallible> = match said.trailers {
            None => Empty::new().boxed(),
            Some(trailers) => {
                Full::new(Bytes::from_static(b"x")).with_trailers(async { Some(Ok(trailers)) }).boxed()
            }
        };
        let authority = said.authority.unwrap_or(&self.proxy.authority);
        let mut request = Request::builder()
            .method(said.method)
            .uri(format!("https://{authority}{}", self.proxy.path))
            .header("accept", "application/json")
            .header("user-agent", "rcmpd")
            .body(body)?;
        // What is in the map already is another name.
        for (name, value) in &said.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let is_marked = response.headers().contains_key(super::identity::PAGE_HEADER);
        let body = Limited::new(response.into_body(), BODY_LEN_MAX).collect().await;
        connection.abort();
        // A body that breaks off says nothing, and the status counts.
        let told = body.ok().and_then(|body| EchoedRequest::parse(&body.to_bytes()));
        Ok(Answer { status, is_page: told.is_some() || is_marked, told, is_resumed: false })
    }
}
