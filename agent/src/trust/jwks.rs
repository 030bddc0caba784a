//! The keys of an issuer of ID tokens: a JSON Web Key Set (RFC 7517, section 5), and the document that says where it is (OpenID Connect
//! Discovery 1.0, sections 3 and 4).

use std::collections::BTreeMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use thiserror::Error;

use super::jwt::{Algorithm, shown};

/// The most bytes of either document.
pub(crate) const MOST_BYTES: usize = 256 * 1024;
/// The most keys of an issuer. The large ones have fewer than ten.
pub(crate) const MOST_KEYS: usize = 32;

/// Why a document of an issuer is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BadKeys {
    /// Something else.
    #[error("is not the JSON of {0}")]
    NotOne(&'static str),
    /// Somebody else's.
    #[error("is that of {0:?}")]
    OtherIssuer(String),
    /// The keys lie where another could put them.
    #[error("says that the keys are at {0:?}, which is not an address of the issuer's own host that begins with https://")]
    Elsewhere(String),
    /// More than anybody has.
    #[error("holds {0} keys, and an issuer has {MOST_KEYS} at the most")]
    TooMany(usize),
    /// Two keys of one name.
    #[error("holds two keys of the name {0:?}")]
    Twice(String),
    /// Nothing to check a signature with.
    #[error("holds no key that can be used here")]
    Empty,
}

/// What is read of the discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Where the keys of the issuer `url` are, by its discovery document.
///
/// # Errors
/// [`BadKeys`], also when the document is of another issuer, or leads to another host: then whoever answers there could make tokens.
pub(crate) fn place_of_keys(url: &str, document: &[u8]) -> Result<String, BadKeys> {
    let document: Discovery = serde_json::from_slice(document).map_err(|_| BadKeys::NotOne("a discovery document"))?;
    // Exactly (section 4.3).
    if document.issuer != url {
        return Err(BadKeys::OtherIssuer(shown(&document.issuer)));
    }
    let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let on_its_host = document.jwks_uri.starts_with(&format!("https://{host}/"));
    let plain = document.jwks_uri.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'\\');
    if on_its_host && plain { Ok(document.jwks_uri) } else { Err(BadKeys::Elsewhere(shown(&document.jwks_uri))) }
}

/// A public key, with the one algorithm that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Modulus and exponent, big-endian.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// A point of P-256, uncompressed (SEC 1, section 2.3.3).
    P256(Vec<u8>),
    /// A point of Ed25519.
    Ed25519(Vec<u8>),
}

impl Key {
    /// What it is for.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether `signature` is one of `message` by this key.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let by = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match self {
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok(),
            Self::P256(point) => by(&ECDSA_P256_SHA256_FIXED, point),
            Self::Ed25519(point) => by(&ED25519, point),
        }
    }
}

/// The keys of an issuer that can be used here, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys(BTreeMap<String, Key>);

impl Keys {
    /// Reads a key set. Keys of kinds that are not known here, or for other uses than signatures, are passed over (RFC 7517, section 5).
    ///
    /// # Errors
    /// [`BadKeys`], also when nothing is left: an issuer without keys is one that is ill.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, BadKeys> {
        let set: JwkSet = serde_json::from_slice(document).map_err(|_| BadKeys::NotOne("a key set"))?;
        if set.keys.len() > MOST_KEYS {
            return Err(BadKeys::TooMany(set.keys.len()));
        }
        let mut keys = BTreeMap::new();
        for jwk in set.keys {
            let Some(key) = jwk.read() else { continue };
            let Some(kid) = jwk.kid.filter(|kid| !kid.is_empty()) else { continue };
            if keys.contains_key(&kid) {
                return Err(BadKeys::Twice(shown(&kid)));
            }
            keys.insert(kid, key);
        }
        if keys.is_empty() { Err(BadKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// The key of a name.
    pub(crate) fn get(&self, kid: &str) -> Option<&Key> {
        self.0.get(kid)
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// What is read of a key (RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2). Certificates beside it (`x5c`) say nothing here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn read(&self) -> Option<Key> {
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs {
            return None;
        }
        let bytes = |member: &Option<String>| member.as_ref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let coordinate = |member| bytes(member).filter(|bytes| bytes.len() == 32);
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(&self.n)?, bytes(&self.e)?);
                // 2048 to 8192 bits; a leading zero is none of the number (RFC 7518, section 6.3.1.1).
                let fits = (256..=1024).contains(&n.len()) && n.first() != Some(&0) && (1..=8).contains(&e.len()) && e.first() != Some(&0);
                fits.then_some(Key::Rsa { n, e })?
            }
            ("EC", Some("P-256")) => Key::P256([vec![4], coordinate(&self.x)?, coordinate(&self.y)?].concat()),
            ("OKP", Some("Ed25519")) => Key::Ed25519(coordinate(&self.x)?),
            _ => return None,
        };
        // A key that says what it is for is for nothing else.
        self.alg.as_deref().is_none_or(|word| Algorithm::of(word) == Some(key.algorithm())).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn keys(text: &str) -> Result<Keys, BadKeys> {
        Keys::parse(format!(r#"{{"keys":[{text}]}}"#).as_bytes())
    }

    fn ed25519(more: &str) -> String {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}"{more}}}"#)
    }

    #[test]
    fn keys_for_signatures_are_kept_by_name_and_others_passed_over() {
        let good = ed25519(r#","kid":"a","alg":"EdDSA","use":"sig","x5c":["x"]"#);
        let read = keys(&good).unwrap();
        assert_eq!(read.get("a").map(Key::algorithm), Some(Algorithm::EdDsa));
        assert_eq!(read.get("b"), None);
        for other in [
            ed25519(""),
            ed25519(r#","kid":"""#),
            ed25519(r#","kid":"b","use":"enc""#),
            ed25519(r#","kid":"b","key_ops":["sign"]"#),
            ed25519(r#","kid":"b","alg":"RS256""#),
            ed25519(r#","kid":"b","alg":"none""#),
            r#"{"kty":"oct","kid":"b","k":"c2VjcmV0"}"#.to_owned(),
            format!(r#"{{"kty":"OKP","crv":"X25519","kid":"b","x":"{X}"}}"#),
            r#"{"kty":"OKP","crv":"Ed25519","kid":"b","x":"AAAA"}"#.to_owned(),
            r#"{"kty":"RSA","kid":"b","n":"AAAA","e":"AQAB"}"#.to_owned(),
            format!(r#"{{"kty":"EC","crv":"P-256","kid":"b","x":"{X}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"b","x":"{X}="}}"#),
        ] {
            assert_eq!(keys(&other), Err(BadKeys::Empty), "{other}");
            assert_eq!(keys(&format!("{other},{good}")).unwrap(), read, "{other}");
        }
    }

    #[test]
    fn sets_that_are_none_too_large_or_ambiguous() {
        assert_eq!(keys(""), Err(BadKeys::Empty));
        for text in ["", "{}", "[]", "<html>", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[]} x"#] {
            assert_eq!(
                Keys::parse(text.as_bytes()),
                Err(if text == r#"{"keys":[]}"# { BadKeys::Empty } else { BadKeys::NotOne("a key set") }),
                "{text}"
            );
        }
        let one = ed25519(r#","kid":"a""#);
        assert_eq!(keys(&format!("{one},{one}")), Err(BadKeys::Twice("a".into())));
        let many = |count: usize| (0..count).map(|at| ed25519(&format!(r#","kid":"{at}""#))).collect::<Vec<_>>().join(",");
        assert!(keys(&many(MOST_KEYS)).is_ok());
        assert_eq!(keys(&many(MOST_KEYS + 1)), Err(BadKeys::TooMany(MOST_KEYS + 1)));
    }

    #[test]
    fn the_keys_are_where_the_issuer_itself_is() {
        let place = |url: &str, issuer: &str, keys: &str| {
            place_of_keys(url, format!(r#"{{"issuer":{issuer:?},"jwks_uri":{keys:?},"more":[1]}}"#).as_bytes())
        };
        let (github, jwks) =
            ("https://token.actions.githubusercontent.com", "https://token.actions.githubusercontent.com/.well-known/jwks");
        assert_eq!(place(github, github, jwks), Ok(jwks.to_owned()));
        assert!(place("https://gitlab.com", "https://gitlab.com", "https://gitlab.com/oauth/discovery/keys").is_ok());
        assert!(place("https://ci.acme.example/gitlab", "https://ci.acme.example/gitlab", "https://ci.acme.example/keys").is_ok());
        assert_eq!(place(github, &format!("{github}/"), jwks), Err(BadKeys::OtherIssuer(format!("{github}/"))));
        for elsewhere in [
            "http://gitlab.com/keys",
            "https://gitlab.com.evil.example/keys",
            "https://gitlab.com:8443/keys",
            "https://gitlab.com@evil.example/keys",
            "https://evil.example/gitlab.com",
            "https://gitlab.com/a b",
            "https://gitlab.com",
            "https://gitlab.com?keys",
            "//gitlab.com/keys",
            "",
        ] {
            assert_eq!(place("https://gitlab.com", "https://gitlab.com", elsewhere), Err(BadKeys::Elsewhere(elsewhere.into())));
        }
        assert_eq!(place_of_keys(github, b"<html>"), Err(BadKeys::NotOne("a discovery document")));
    }
}
