//! A signed identity: a JWT (RFC 7519) with EdDSA (RFC 8037) or ES256 (RFC 7518, section 3.4), for applications behind more than one
//! hop.
//!
//! It is bound to the certificate (`cnf` with `x5t#S256`, RFC 8705, section 3.1) and counts only together with it: whoever checks one
//! without the other checks half of it.

use crate::headers::Facts;
use crate::identity::Identity;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dtyp::FileTime;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// Groups in a token; with more, `groups` is left out and `groups_omitted` is there: a token has to fit a header.
const GROUPS_MAX: usize = 32;

enum Key {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// This is no Ed25519 or P-256 key in PKCS#8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnusableKey;

impl std::fmt::Display for UnusableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this is not an Ed25519 or P-256 key in PKCS#8")
    }
}

impl std::error::Error for UnusableKey {}

/// Signs identities.
pub struct TokenSigner {
    key: Key,
    kid: String,
    jwk: Value,
    issuer: String,
    audience: String,
    lifetime: Duration,
    random: SystemRandom,
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenSigner {} for {}", self.kid, self.audience)
    }
}

impl TokenSigner {
    /// Takes a key in PKCS#8 DER.
    pub fn new(
        pkcs8: &[u8],
        issuer: String,
        audience: String,
        lifetime: Duration,
    ) -> Result<Self, UnusableKey> {
        let (key, mut jwk) = match Ed25519KeyPair::from_pkcs8(pkcs8) {
            Ok(pair) => {
                let x = BASE64URL.encode(pair.public_key().as_ref());
                (Key::Ed25519(pair), json!({ "crv": "Ed25519", "kty": "OKP", "x": x }))
            }
            Err(_) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                    .map_err(|_| UnusableKey)?;
                // An uncompressed point (SEC 1, section 2.3.3): 0x04 and two coordinates.
                let point = pair.public_key().as_ref();
                let (x, y) = point.get(1..).and_then(|xy| xy.split_at_checked(32)).ok_or(UnusableKey)?;
                let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
                (Key::P256(pair), json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y }))
            }
        };
        let kid = thumbprint(&jwk);
        let algorithm = match key {
            Key::Ed25519(_) => "EdDSA",
            Key::P256(_) => "ES256",
        };
        if let Value::Object(members) = &mut jwk {
            members.insert("kid".to_owned(), kid.as_str().into());
            members.insert("alg".to_owned(), algorithm.into());
            members.insert("use".to_owned(), "sig".into());
        }
        Ok(Self { key, kid, jwk, issuer, audience, lifetime, random: SystemRandom::new() })
    }

    /// How long a token counts.
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The public half, as a JWK set (RFC 7517, section 5).
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// A token for somebody; it ends with the certificate at the latest.
    pub fn sign(&self, identity: &Identity, user: &str, facts: &Facts<'_>, now: FileTime) -> Option<String> {
        let algorithm = match self.key {
            Key::Ed25519(_) => "EdDSA",
            Key::P256(_) => "ES256",
        };
        let now = now.to_unix();
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let end = now.saturating_add(lifetime).min(identity.not_after.to_unix());
        let mut claims = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "sub": identity.sid.to_string(),
            "iat": now,
            "nbf": now,
            "exp": end,
            "jti": facts.decision,
            "preferred_username": user,
            "domain": identity.domain,
            "account": identity.account,
            "upn": identity.upn,
            "name": identity.full_name,
            "strength": identity.assurance.name(),
            "policy_revision": identity.policy_revision,
            "cnf": { "x5t#S256": BASE64URL.encode(facts.certificate) },
        });
        if let Value::Object(members) = &mut claims {
            match identity.groups.len() <= GROUPS_MAX {
                true => {
                    let sids: Vec<_> = identity.groups.iter().map(|group| group.sid.to_string()).collect();
                    members.insert("groups".to_owned(), sids.into());
                }
                false => _ = members.insert("groups_omitted".to_owned(), true.into()),
            }
            members.retain(|_, value| !value.is_null());
        }
        let header = json!({ "alg": algorithm, "kid": self.kid, "typ": "JWT" });
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = match &self.key {
            Key::Ed25519(pair) => BASE64URL.encode(pair.try_sign(signed.as_bytes()).ok()?),
            Key::P256(pair) => BASE64URL.encode(pair.sign(&self.random, signed.as_bytes()).ok()?),
        };
        Some(format!("{signed}.{signature}"))
    }
}

/// The thumbprint of a key (RFC 7638, section 3) by SHA-256. `required` has the required members and no other.
fn thumbprint(required: &Value) -> String {
    // In the order of their names, whichever order a map keeps.
    let members: BTreeMap<_, _> = required.as_object().into_iter().flatten().collect();
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    BASE64URL.encode(Sha256::digest(format!("{{{}}}", members.join(","))))
}
