//! What matters of an HTTP request and response.

use crate::refusal::Dialect;
use std::net::IpAddr;

/// The media type of SOAP 1.2 (RFC 3902).
const MEDIA_TYPE: &str = "application/soap+xml";
/// `Content-Type` of all messages that are sent.
pub const CONTENT_TYPE: &str = "application/soap+xml; charset=utf-8";

/// Whether a `Content-Type` is that of SOAP 1.2, with any parameters.
pub fn is_soap(content_type: &str) -> bool {
    media_type(content_type).eq_ignore_ascii_case(MEDIA_TYPE)
}

/// A `Content-Type` without its parameters.
fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// A POST.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// The whole body.
    pub body: &'a [u8],
    /// Address of the client.
    pub source: IpAddr,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// The body, of type [`CONTENT_TYPE`]; empty for 202.
    pub body: Vec<u8>,
}

/// Accepts SOAP 1.2 in UTF-8. The `action` parameter is not looked at: the action that counts is in the
/// message.
pub(crate) fn check_content_type(content_type: Option<&str>) -> Result<(), Dialect> {
    let content_type = content_type.unwrap_or_default();
    match &*media_type(content_type).to_ascii_lowercase() {
        MEDIA_TYPE => {}
        "text/xml" => return Err(Dialect::Soap11),
        "multipart/related" => return Err(Dialect::Mtom),
        "application/soap+msbin1" | "application/soap+msbinsession1" => return Err(Dialect::BinaryXml),
        _ => return Err(Dialect::ContentType),
    }
    // A quoted value with a `;` in it, such as that of an action, is cut. Its parts name no charset.
    for parameter in content_type.split(';').skip(1) {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        if is_charset && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") {
            return Err(Dialect::Encoding);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_as_dot_net_writes_them() {
        for accepted in [
            "application/soap+xml",
            "application/soap+xml; charset=utf-8",
            "Application/SOAP+XML;charset=\"UTF-8\"",
            "application/soap+xml; charset=utf-8; action=\"urn:echo\"",
            "application/soap+xml; action=\"urn:a;b\"; charset=UTF-8",
        ] {
            assert_eq!(check_content_type(Some(accepted)), Ok(()), "{accepted}");
        }
        for (content_type, dialect) in [
            (None, Dialect::ContentType),
            (Some(""), Dialect::ContentType),
            (Some("application/soap+xml; charset=latin1"), Dialect::Encoding),
            (Some("application/soap+xml; charset=utf-16"), Dialect::Encoding),
            (Some("text/xml; charset=utf-8"), Dialect::Soap11),
            (Some("multipart/related; type=\"application/xop+xml\""), Dialect::Mtom),
            (Some("application/soap+msbin1"), Dialect::BinaryXml),
        ] {
            assert_eq!(check_content_type(content_type), Err(dialect), "{content_type:?}");
        }
    }
}
