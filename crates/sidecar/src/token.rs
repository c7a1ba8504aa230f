//! A signed identity: a JWT (RFC 7519) with EdDSA (RFC 8037) or ES256 (RFC 7518, section 3.4), for
//! applications behind more than one hop.
//!
//! It is bound to the certificate (`cnf` with `x5t#S256`, RFC 8705, section 3.1) and counts only together
//! with it: an application has to check both.

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

/// Groups in a token; with more, or where the token would be longer than a header may be, `groups` is left
/// out and `groups_omitted` is there: a token has to fit a header.
const GROUPS_MAX: usize = 32;

/// What a token says of an account.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Groups,
    /// No groups.
    Names,
    /// Neither groups nor the UPN and the display name.
    Account,
}

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

/// A public key that applications verify tokens by, as a JWK (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicJwk {
    kid: String,
    jwk: Value,
}

/// RFC 8410, section 4, and RFC 5480, section 2: a SubjectPublicKeyInfo up to the key. The second ends with
/// the mark of an uncompressed point.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl PublicJwk {
    fn ed25519(key: &[u8]) -> Self {
        Self::of(json!({ "crv": "Ed25519", "kty": "OKP", "x": BASE64URL.encode(key) }), "EdDSA")
    }

    /// An uncompressed point (SEC 1, section 2.3.3): 0x04 and two coordinates.
    fn p256(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32).filter(|(_, y)| y.len() == 32)?;
        let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
        Some(Self::of(json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y }), "ES256"))
    }

    fn of(mut jwk: Value, algorithm: &str) -> Self {
        let kid = thumbprint(&jwk);
        if let Value::Object(members) = &mut jwk {
            members.insert("kid".to_owned(), kid.as_str().into());
            members.insert("alg".to_owned(), algorithm.into());
            members.insert("use".to_owned(), "sig".into());
        }
        Self { kid, jwk }
    }

    /// From a SubjectPublicKeyInfo in DER, of an Ed25519 or P-256 key.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        match der.strip_prefix(&ED25519_SPKI) {
            Some(key) => (key.len() == 32).then(|| Self::ed25519(key)),
            None => Self::p256(der.strip_prefix(&P256_SPKI)?),
        }
    }

    /// A JWK set of these keys (RFC 7517, section 5), each once.
    pub(crate) fn set<'a>(keys: impl Iterator<Item = &'a Self>) -> Value {
        let mut known: Vec<&Self> = Vec::new();
        for key in keys {
            if !known.iter().any(|known| known.kid == key.kid) {
                known.push(key);
            }
        }
        json!({ "keys": known.iter().map(|key| &key.jwk).collect::<Vec<_>>() })
    }
}

/// Signs identities.
pub struct TokenSigner {
    key: Key,
    public: PublicJwk,
    /// Public keys that are published beside the own one: the next one and the previous one.
    others: Vec<PublicJwk>,
    issuer: String,
    audience: String,
    lifetime: Duration,
    random: SystemRandom,
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenSigner {} for {}", self.public.kid, self.audience)
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
        let (key, public) = match Ed25519KeyPair::from_pkcs8(pkcs8) {
            Ok(pair) => {
                let public = PublicJwk::ed25519(pair.public_key().as_ref());
                (Key::Ed25519(pair), public)
            }
            Err(_) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                    .map_err(|_| UnusableKey)?;
                let public = PublicJwk::p256(pair.public_key().as_ref()).ok_or(UnusableKey)?;
                (Key::P256(pair), public)
            }
        };
        Ok(Self { key, public, others: Vec::new(), issuer, audience, lifetime, random: SystemRandom::new() })
    }

    /// Publishes these keys beside the own one.
    pub fn publishing(mut self, others: Vec<PublicJwk>) -> Self {
        self.others = others;
        self
    }

    /// How long a token counts.
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The public key that verifies what this signs.
    pub(crate) const fn public(&self) -> &PublicJwk {
        &self.public
    }

    /// All keys that are published, the own one first.
    pub(crate) fn published(&self) -> impl Iterator<Item = &PublicJwk> {
        std::iter::once(&self.public).chain(&self.others)
    }

    /// A token for an account and the configured audience, or another one; it ends with the certificate at
    /// the latest. If it would be longer than `len_max`, groups are left out, then the names that the account
    /// does not need.
    pub fn sign(
        &self,
        (identity, audience): (&Identity, Option<&str>),
        user: &str,
        facts: &Facts<'_>,
        (now, len_max): (FileTime, usize),
    ) -> Option<String> {
        let audience = audience.unwrap_or(&self.audience);
        let groups = (identity.groups.len() <= GROUPS_MAX).then_some(Detail::Groups);
        let mut details = groups.into_iter().chain([Detail::Names, Detail::Account]).peekable();
        while let Some(detail) = details.next() {
            let token = self.sign_with((identity, audience), user, facts, (now, detail))?;
            if token.len() <= len_max || details.peek().is_none() {
                return Some(token);
            }
        }
        None
    }

    fn sign_with(
        &self,
        (identity, audience): (&Identity, &str),
        user: &str,
        facts: &Facts<'_>,
        (now, detail): (FileTime, Detail),
    ) -> Option<String> {
        let algorithm = match self.key {
            Key::Ed25519(_) => "EdDSA",
            Key::P256(_) => "ES256",
        };
        let now = now.to_unix();
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let end = now.saturating_add(lifetime).min(identity.not_after.to_unix());
        let mut claims = json!({
            "iss": self.issuer,
            "aud": audience,
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
            "cnf": facts.certificate.map(|sha256| json!({ "x5t#S256": BASE64URL.encode(sha256) })),
        });
        if let Value::Object(members) = &mut claims {
            if let Some(age) = identity.stale_s {
                members.insert("stale_s".to_owned(), age.into());
            }
            if detail == Detail::Account {
                members.retain(|name, _| !matches!(name.as_str(), "upn" | "name"));
            }
            match detail == Detail::Groups {
                true => {
                    let sids: Vec<_> = identity.groups.iter().map(|group| group.sid.to_string()).collect();
                    members.insert("groups".to_owned(), sids.into());
                }
                false => _ = members.insert("groups_omitted".to_owned(), true.into()),
            }
            members.retain(|_, value| !value.is_null());
        }
        let header = json!({ "alg": algorithm, "kid": self.public.kid, "typ": "JWT" });
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = match &self.key {
            Key::Ed25519(pair) => BASE64URL.encode(pair.try_sign(signed.as_bytes()).ok()?),
            Key::P256(pair) => BASE64URL.encode(pair.sign(&self.random, signed.as_bytes()).ok()?),
        };
        Some(format!("{signed}.{signature}"))
    }
}

/// The thumbprint of a key (RFC 7638, section 3) by SHA-256. `required` has the required members and no
/// other.
fn thumbprint(required: &Value) -> String {
    // In the order of their names, whichever order a map keeps.
    let members: BTreeMap<_, _> = required.as_object().into_iter().flatten().collect();
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    BASE64URL.encode(Sha256::digest(format!("{{{}}}", members.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Group;
    use crate::scene::{alice, sid};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, UnparsedPublicKey,
    };

    fn ed25519() -> Vec<u8> {
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key can be made").as_ref().to_vec()
    }

    fn p256() -> Vec<u8> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        key.expect("a key can be made").as_ref().to_vec()
    }

    fn signer(key: &[u8], lifetime: Duration) -> TokenSigner {
        let (issuer, audience) = ("https://proxy.example".to_owned(), "app".to_owned());
        TokenSigner::new(key, issuer, audience, lifetime).expect("the key is good")
    }

    fn now() -> FileTime {
        FileTime::from_unix(1_900_000_000)
    }

    fn facts() -> Facts<'static> {
        Facts { decision: "d0", certificate: Some(&[0xff; 32]), token: None }
    }

    fn decoded(part: &str) -> Vec<u8> {
        BASE64URL.decode(part).expect("base64url")
    }

    fn json_of(part: &str) -> Value {
        serde_json::from_slice(&decoded(part)).expect("JSON")
    }

    fn claims(signer: &TokenSigner, identity: &Identity) -> Value {
        let token = signer
            .sign((identity, None), "CONTOSO\\alice", &facts(), (now(), usize::MAX))
            .expect("it can be signed");
        json_of(token.split('.').nth(1).expect("three parts"))
    }

    /// Whether an application that has nothing but the JWK set accepts the token.
    fn verifies(jwks: &Value, token: &str) -> bool {
        let Some((signed, signature)) = token.rsplit_once('.') else { return false };
        let header = json_of(signed.split('.').next().expect("a header"));
        let keys = jwks["keys"].as_array().expect("keys");
        let Some(key) = keys.iter().find(|key| key["kid"] == header["kid"]) else { return false };
        assert_eq!(key["alg"], header["alg"]);
        let member = |name: &str| decoded(key[name].as_str().expect("a member"));
        let (signed, signature) = (signed.as_bytes(), decoded(signature));
        match key["kty"].as_str() {
            Some("OKP") => UnparsedPublicKey::new(&ED25519, member("x")).verify(signed, &signature).is_ok(),
            Some("EC") => {
                let point = [vec![4], member("x"), member("y")].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, &signature).is_ok()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_published_key_verifies_what_was_signed() {
        for (key, kty, crv, alg) in [(ed25519(), "OKP", "Ed25519", "EdDSA"), (p256(), "EC", "P-256", "ES256")]
        {
            let signer = signer(&key, Duration::from_secs(60));
            let jwks = PublicJwk::set(signer.published());
            let jwk = &jwks["keys"][0];
            assert_eq!(
                [&jwk["kty"], &jwk["crv"], &jwk["alg"], &jwk["use"]],
                [kty, crv, alg, "sig"].map(Value::from).each_ref()
            );
            assert!(jwk.get("d").is_none(), "it is public");
            let token = signer
                .sign((&alice(), None), "alice", &facts(), (now(), usize::MAX))
                .expect("it can be signed");
            assert_eq!(token.split('.').count(), 3);
            assert_eq!(json_of(token.split('.').next().expect("a header"))["typ"], "JWT");
            assert!(verifies(&jwks, &token));
            let parts: Vec<&str> = token.split('.').collect();
            let other = BASE64URL
                .encode(String::from_utf8(decoded(parts[1])).expect("UTF-8").replace("alice", "admin"));
            assert!(!verifies(&jwks, &format!("{}.{other}.{}", parts[0], parts[2])));
        }
        let of_another =
            signer(&ed25519(), Duration::ZERO).sign((&alice(), None), "alice", &facts(), (now(), usize::MAX));
        let jwks = PublicJwk::set(signer(&ed25519(), Duration::ZERO).published());
        assert!(!verifies(&jwks, &of_another.expect("it can be signed")));
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        let random = SystemRandom::new();
        let p384 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random);
        let p384 = p384.expect("a key can be made");
        let whole = p256();
        for key in [&b""[..], b"key", p384.as_ref(), &whole[..whole.len() - 1]] {
            let made = TokenSigner::new(key, String::new(), String::new(), Duration::ZERO);
            assert_eq!(made.map(|_| ()), Err(UnusableKey));
        }
    }

    #[test]
    fn kid_is_the_thumbprint() {
        // RFC 7638, section 3.1.
        let n = concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj",
            "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ",
            "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK",
            "nqDKgw",
        );
        let rsa = json!({ "n": n, "kty": "RSA", "e": "AQAB" });
        assert_eq!(thumbprint(&rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        // RFC 8037, appendix A.3.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let okp = json!({ "x": x, "kty": "OKP", "crv": "Ed25519" });
        assert_eq!(thumbprint(&okp), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        for key in [ed25519(), p256()] {
            let mut jwk = PublicJwk::set(signer(&key, Duration::ZERO).published())["keys"][0].take();
            let kid = jwk["kid"].take();
            let Value::Object(members) = &mut jwk else { panic!("{jwk}") };
            members.retain(|name, _| ["crv", "kty", "x", "y"].contains(&name.as_str()));
            assert_eq!(kid, thumbprint(&jwk));
        }
    }

    /// The next key is published before it signs, and the previous one after it did.
    #[test]
    fn other_keys_are_published_from_their_public_halves() {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let spki = |pkcs8: &[u8]| -> Vec<u8> {
            match Ed25519KeyPair::from_pkcs8(pkcs8) {
                Ok(pair) => {
                    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("it has one");
                    der.as_ref().to_vec()
                }
                Err(_) => {
                    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
                    let pair = pair.expect("it is P-256");
                    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("it has one");
                    der.as_ref().to_vec()
                }
            }
        };
        let keys = [ed25519(), p256(), ed25519()];
        let [own, others @ ..] = &keys;
        let public = others.iter().map(|key| PublicJwk::from_spki(&spki(key)).expect("it is one")).collect();
        let own = signer(own, Duration::from_secs(60)).publishing(public);
        let jwks = PublicJwk::set(own.published());
        assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(3));
        for key in &keys {
            let token = signer(key, Duration::from_secs(60)).sign(
                (&alice(), None),
                "alice",
                &facts(),
                (now(), usize::MAX),
            );
            assert!(verifies(&jwks, &token.expect("it can be signed")));
        }
        // Its own key among them is there once.
        let twice = signer(&keys[0], Duration::ZERO).publishing(vec![own.public().clone()]);
        assert_eq!(PublicJwk::set(twice.published())["keys"].as_array().map(Vec::len), Some(1));
        let whole = spki(&keys[1]);
        for odd in [&b""[..], b"key", &whole[..whole.len() - 1], &[&whole[..], &[0]].concat(), &keys[1]] {
            assert_eq!(PublicJwk::from_spki(odd), None);
        }
    }

    #[test]
    fn a_token_is_for_the_audience_of_its_route() {
        let signer = signer(&p256(), Duration::from_secs(60));
        for (audience, expected) in [(None, "app"), (Some("orders"), "orders")] {
            let token = signer.sign((&alice(), audience), "alice", &facts(), (now(), usize::MAX));
            let token = token.expect("it can be signed");
            assert_eq!(json_of(token.split('.').nth(1).expect("three parts"))["aud"], expected);
        }
    }

    #[test]
    fn a_token_says_who_and_ends_with_the_certificate() {
        let signer_for = |lifetime| signer(&p256(), lifetime);
        let claims_of = claims(&signer_for(Duration::from_secs(60)), &alice());
        let expected = json!({
            "iss": "https://proxy.example",
            "aud": "app",
            "sub": "S-1-5-21-1-2-3-1000",
            "iat": 1_900_000_000,
            "nbf": 1_900_000_000,
            "exp": 1_900_000_060,
            "jti": "d0",
            "preferred_username": "CONTOSO\\alice",
            "domain": "CONTOSO",
            "account": "alice",
            "upn": "alice@contoso.example",
            "name": "Alice Liddell",
            "strength": "strong",
            "policy_revision": 7,
            // 32 octets of ones.
            "cnf": { "x5t#S256": format!("{}8", "_".repeat(42)) },
            "groups": ["S-1-5-21-1-2-3-513", "S-1-5-21-1-2-3-1100"],
        });
        assert_eq!(claims_of, expected);
        for (lifetime, left, expected) in
            [(60, 61, 60), (60, 60, 60), (60, 59, 59), (60, -5, -5), (u64::MAX, 9, 9)]
        {
            // Half a second more is none: what is written is never later.
            let end = FileTime(FileTime::from_unix(1_900_000_000 + left).0 + 5_000_000);
            let identity = Identity { not_after: end, ..alice() };
            let claims = claims(&signer_for(Duration::from_secs(lifetime)), &identity);
            assert_eq!(claims["exp"], 1_900_000_000 + expected, "{lifetime} {left}");
        }
    }

    #[test]
    fn a_token_fits_a_header() {
        let signer = signer(&ed25519(), Duration::from_secs(60));
        let group = |rid: usize| Group {
            sid: sid(&format!("S-1-5-21-4294967295-4294967295-4294967295-{rid}")),
            name: None,
        };
        for (count, is_there) in [(0, true), (32, true), (33, false), (5000, false)] {
            let identity =
                Identity { groups: (0..count).map(group).collect(), upn: None, full_name: None, ..alice() };
            let claims = claims(&signer, &identity);
            assert_eq!(claims["groups"].as_array().map(Vec::len), is_there.then_some(count));
            assert_eq!(claims.get("groups_omitted"), (!is_there).then_some(&Value::Bool(true)));
            assert!(claims.get("upn").is_none() && claims.get("name").is_none());
            let token = signer
                .sign((&identity, None), "alice", &facts(), (now(), usize::MAX))
                .expect("it can be signed");
            assert!(token.len() <= crate::headers::VALUE_LEN_DEFAULT, "{}", token.len());
        }
    }
}
