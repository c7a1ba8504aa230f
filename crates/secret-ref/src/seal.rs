//! What the master secret, or the cache of a node, is sealed with: by reference, with no secret in the
//! configuration.

use crate::SecretRef;
use std::path::{Path, PathBuf};

/// What the secret is sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealRef {
    /// A file or systemd credential with a key of 32 octets.
    Key(SecretRef),
    /// A passphrase.
    Passphrase(SecretRef),
    /// The folder of the shares of a key.
    Shares(PathBuf),
    /// A key in a PKCS#11 token.
    Token(TokenRef),
}

/// A key in a PKCS#11 token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRef {
    /// The shared library that reaches the token.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The serial number of the token, where several have the label.
    pub serial: Option<String>,
    /// The label of the key.
    pub key: String,
    /// The PIN of the token's user.
    pub pin: SecretRef,
}

/// How the four forms are written.
pub const FORMS: &str = "write file:PATH or cred:NAME for a key, passphrase:file:PATH or passphrase:cred:NAME for a passphrase, \
     shares:FOLDER for shares of a key, or a pkcs11: URI for a key in a token; never env:";

impl SealRef {
    /// Reads `file:PATH`, `cred:NAME`, `passphrase:` and one of these, `shares:FOLDER`, or a `pkcs11:` URI.
    /// Relative paths start at `base`. The error is the start of a sentence that [`FORMS`] ends.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        if let Some(uri) = text.strip_prefix("pkcs11:") {
            return TokenRef::parse(uri, base).map(Self::Token);
        }
        if let Some(folder) = text.strip_prefix("shares:").filter(|folder| !folder.is_empty()) {
            return Ok(Self::Shares(base.join(folder)));
        }
        let (reference, kind): (_, fn(_) -> _) = match text.strip_prefix("passphrase:") {
            Some(reference) => (reference, Self::Passphrase),
            None => (text, Self::Key),
        };
        secret(reference, base)
            .map(kind)
            .ok_or_else(|| "this names nothing that can seal the secret".to_owned())
    }

    /// The file that has a key, passphrase or PIN, if it is a file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Key(SecretRef::File(path)) | Self::Passphrase(SecretRef::File(path)) => Some(path),
            Self::Token(TokenRef { pin: SecretRef::File(path), .. }) => Some(path),
            _ => None,
        }
    }
}

/// A reference to a secret that seals. What is in the environment can be read by each process of the user,
/// and child processes inherit it.
fn secret(reference: &str, base: &Path) -> Option<SecretRef> {
    SecretRef::parse(reference, base).filter(|it| !matches!(it, SecretRef::Environment(_)))
}

impl TokenRef {
    /// Reads the part of a PKCS#11 URI (RFC 7512) behind the scheme. `token` and `object` name the key;
    /// `module-path` and `pin-source` are required. An attribute that would be left out is refused, because
    /// it could name another key.
    fn parse(uri: &str, base: &Path) -> Result<Self, String> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let [mut token, mut serial, mut key, mut module, mut pin] = [const { None::<String> }; 5];
        let attributes = path.split(';').map(|attribute| (attribute, false));
        let attributes = attributes.chain(query.split('&').map(|attribute| (attribute, true)));
        for (attribute, is_query) in attributes.filter(|(attribute, _)| !attribute.is_empty()) {
            let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let value = percent_decoded(value)
                .filter(|value| !value.is_empty() && !value.contains('\0'))
                .ok_or_else(|| format!("the attribute {name} of the pkcs11: URI has no usable value"))?;
            let place = match (is_query, name) {
                (false, "token") => &mut token,
                (false, "serial") => &mut serial,
                (false, "object") => &mut key,
                (false, "type") if value == "secret-key" => continue,
                (true, "module-path") => &mut module,
                (true, "pin-source") => &mut pin,
                (true, "pin-value") => {
                    return Err(
                        "pin-value is a PIN in the text itself: use pin-source=file:PATH or cred:NAME".into(),
                    );
                }
                _ => {
                    return Err(format!(
                        "the pkcs11: URI has the attribute {name}, which is not supported here"
                    ));
                }
            };
            if place.replace(value).is_some() {
                return Err(format!("the pkcs11: URI has the attribute {name} twice"));
            }
        }
        let required = |value: Option<String>, name: &str| {
            value.ok_or_else(|| {
                format!(
                    "the pkcs11: URI lacks {name}: it has the form \
                     pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=file:PATH"
                )
            })
        };
        let pin = required(pin, "pin-source")?;
        Ok(Self {
            module: base.join(required(module, "module-path")?),
            token: required(token, "token")?,
            serial,
            key: required(key, "object")?,
            pin: secret(&pin, base)
                .ok_or("pin-source names no PIN: write file:PATH or cred:NAME, never env: or a program")?,
        })
    }
}

/// RFC 3986, section 2.1. None if a `%` has no two digits behind it, or if the result is no UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            octets.push(*first);
            continue;
        }
        let mut octet = [0];
        dtyp::read_hex(rest.get(..2)?, &mut octet)?;
        octets.extend(octet);
        rest = &rest[2..];
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SealRef, String> {
        SealRef::parse(text, Path::new("/etc/rcmpd"))
    }

    #[test]
    fn key_in_a_token_is_named_by_a_uri() {
        let token = |pin| {
            SealRef::Token(TokenRef {
                module: "/usr/lib/softhsm/libsofthsm2.so".into(),
                token: "The Software PKCS#11".to_owned(),
                serial: None,
                key: "unseal".to_owned(),
                pin,
            })
        };
        // The labels of RFC 7512, section 3.
        let uri = "pkcs11:token=The%20Software%20PKCS%2311;object=unseal;type=secret-key\
                   ?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=";
        for (source, pin) in [
            ("file:/etc/token_pin", SecretRef::File("/etc/token_pin".into())),
            ("file:pin", SecretRef::File("/etc/rcmpd/pin".into())),
            ("cred:pin", SecretRef::Credential("pin".to_owned())),
        ] {
            assert_eq!(parse(&format!("{uri}{source}")), Ok(token(pin)));
        }
        let one = parse(&(uri.replace(";object", ";serial=DECC0401648;object") + "file:pin"));
        assert!(
            matches!(one, Ok(SealRef::Token(TokenRef { serial: Some(serial), .. })) if serial == "DECC0401648")
        );
        for (wrong, why) in [
            (format!("{uri}env:PIN"), "pin-source names no PIN"),
            (format!("{uri}%7Ccat /etc/pin"), "pin-source names no PIN"),
            (format!("{uri}file:pin&pin-value=1234"), "pin-value is a PIN in the text"),
            (format!("{uri}file:pin&pin-source=file:other"), "pin-source twice"),
            (format!("{uri}file:pin&x=1"), "attribute x, which is not supported"),
            (uri.replace("object=unseal", "id=%01") + "file:pin", "attribute id, which is not supported"),
            (uri.replace("secret-key", "private") + "file:pin", "attribute type, which is not supported"),
            (uri.replace(";object=unseal", "") + "file:pin", "lacks object"),
            (uri.replace("module-path=", "module-name=") + "file:pin", "module-name, which is not supported"),
            (uri.replace("%2311", "%2") + "file:pin", "token of the pkcs11: URI has no usable value"),
            (uri.replace("%2311", "%00") + "file:pin", "token of the pkcs11: URI has no usable value"),
            ("pkcs11:".to_owned(), "lacks pin-source"),
        ] {
            let refused = parse(&wrong).expect_err(&wrong);
            assert!(refused.contains(why), "{wrong}: {refused}");
        }
    }

    #[test]
    fn other_sources_are_files_credentials_and_folders() {
        let file = |path: &str| SecretRef::File(path.into());
        assert_eq!(parse("file:seal.key"), Ok(SealRef::Key(file("/etc/rcmpd/seal.key"))));
        assert_eq!(parse("passphrase:file:/run/p"), Ok(SealRef::Passphrase(file("/run/p"))));
        assert_eq!(parse("shares:/run/rcmpd"), Ok(SealRef::Shares("/run/rcmpd".into())));
        for wrong in
            ["shares:", "env:KEY", "passphrase:env:P", "passphrase:", "seal.key", "passphrase:shares:x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
