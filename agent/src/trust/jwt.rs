//! ID tokens as they travel: JSON Web Tokens in the compact form (RFC 7519, RFC 7515 section 7.1), read so that each has one meaning only. What a
//! header may ask of the reader (another key, another algorithm, an extension) is never done: RFC 8725, sections 3.1 to 3.5 and 3.9 to 3.11.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use super::jwks::Keys;

/// The most bytes of a token.
pub(crate) const MOST_BYTES: usize = 16 * 1024;

/// How a token is signed: the words of `alg` (RFC 7518, section 3.1; RFC 8037, section 3.1). There is no `none` here, and nothing with a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every one, with its word.
    pub(crate) const ALL: [(&'static str, Self); 3] = [("RS256", Self::Rs256), ("ES256", Self::Es256), ("EdDSA", Self::EdDsa)];

    /// The algorithm of a word.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, algorithm)| *algorithm)
    }
}

/// Why a token is not believed. It goes to the log, never to whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BadToken {
    /// Nobody makes one of this length.
    #[error("it has more than {MOST_BYTES} bytes")]
    TooLong,
    /// Not the compact form.
    #[error("it is not three parts of base64url, without padding, with a dot between them")]
    Shape,
    /// Not JSON, or of two meanings.
    #[error("its {0} is not one JSON object in which each member stands once")]
    NotAnObject(&'static str),
    /// The header wants something of the reader.
    #[error("its header has `{0}`, which is never followed")]
    Forbidden(&'static str),
    /// A member of the header is not what it must be.
    #[error("`{0}` of its header is missing, or not what an ID token has there")]
    Header(&'static str),
    /// Signed in a way that is not taken.
    #[error("it is signed with {0:?}, and that is none of the issuer's `algorithms`")]
    Algorithm(String),
    /// The issuer has no such key.
    #[error("the issuer has no key {0:?}")]
    UnknownKey(String),
    /// The key is for something else.
    #[error("the key {0:?} is for another algorithm than the token's")]
    OtherUse(String),
    /// Nobody signed this with that key.
    #[error("its signature is not one of the key {0:?}")]
    Signature(String),
    /// Made by somebody that is not configured.
    #[error("it says that it is of {0:?}, and agent.toml has no such issuer")]
    UnknownIssuer(String),
    /// A claim is not what it must be.
    #[error("its claim `{claim}` {rule}")]
    Claim {
        /// The claim.
        claim: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

impl BadToken {
    /// The token says that it is of this issuer, which is not configured.
    pub(crate) fn unknown_issuer(url: &str) -> Self {
        Self::UnknownIssuer(shown(url))
    }
}

/// A value of a claim, as far as anybody here wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A text.
    Text(String),
    /// A whole number, written as one: neither `1.0` nor `1e3`.
    Integer(i64),
    /// True or false.
    Truth(bool),
    /// Anything else: a list, an object, a fraction, nothing.
    Other,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims(BTreeMap<String, Claim>);

impl Claims {
    /// A text that must be there and say something.
    pub(crate) fn text(&self, claim: &'static str) -> Result<&str, BadToken> {
        match self.0.get(claim) {
            Some(Claim::Text(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(BadToken::Claim { claim, rule: "is not one text" }),
            None => Err(BadToken::Claim { claim, rule: "is missing" }),
        }
    }

    /// A moment, in whole seconds since 1970 UTC, that must be there.
    pub(crate) fn moment(&self, claim: &'static str) -> Result<u64, BadToken> {
        let read = match self.0.get(claim) {
            Some(Claim::Integer(seconds)) => u64::try_from(*seconds).ok(),
            Some(_) => None,
            None => return Err(BadToken::Claim { claim, rule: "is missing" }),
        };
        read.ok_or(BadToken::Claim { claim, rule: "is not a whole number of seconds" })
    }

    /// The number of a project or an owner, which nobody can take over, as a text of digits.
    pub(crate) fn number(&self, claim: &'static str) -> Result<String, BadToken> {
        match self.0.get(claim) {
            Some(Claim::Text(text)) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(text.clone()),
            Some(Claim::Integer(number)) if *number >= 0 => Ok(number.to_string()),
            Some(_) => Err(BadToken::Claim { claim, rule: "is not a number" }),
            None => Err(BadToken::Claim { claim, rule: "is missing" }),
        }
    }

    /// Whether there is such a claim, whatever it is.
    pub(crate) fn has(&self, claim: &str) -> bool {
        self.0.contains_key(claim)
    }

    /// What a grant may ask for, each as a text.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        let text = |claim: &Claim| match claim {
            Claim::Text(text) => Some(text.clone()),
            Claim::Integer(number) => Some(number.to_string()),
            Claim::Truth(truth) => Some(truth.to_string()),
            Claim::Other => None,
        };
        self.0.iter().filter_map(|(name, claim)| text(claim).map(|text| (name.clone(), text))).collect()
    }
}

/// A token that was read, and that nobody has proven yet.
#[derive(Debug)]
pub(crate) struct Jwt<'a> {
    algorithm: String,
    kid: String,
    /// Header and payload as they were signed (RFC 7515, section 5.2).
    signed: &'a str,
    signature: Vec<u8>,
    claims: Claims,
}

/// Members of a header that bring or name a key, or ask for an extension (RFC 7515, section 4.1). A key that comes with the token proves nothing.
const FORBIDDEN: [&str; 5] = ["crit", "jku", "x5u", "jwk", "x5c"];

impl<'a> Jwt<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`BadToken`], when it could be read in two ways, or not at all.
    pub(crate) fn parse(token: &'a str) -> Result<Self, BadToken> {
        if token.len() > MOST_BYTES {
            return Err(BadToken::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(BadToken::Shape)?;
        let (header, payload) = signed.split_once('.').ok_or(BadToken::Shape)?;
        // A further dot is no character of base64url.
        let decode = |part: &str| if part.is_empty() { None } else { URL_SAFE_NO_PAD.decode(part).ok() }.ok_or(BadToken::Shape);
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let object = |part, bytes: &[u8]| serde_json::from_slice::<Claims>(bytes).map_err(|_| BadToken::NotAnObject(part));
        let header = object("header", &header)?;
        if let Some(forbidden) = FORBIDDEN.into_iter().find(|member| header.has(member)) {
            return Err(BadToken::Forbidden(forbidden));
        }
        // Other kinds of token of the same issuer must not pass for this one (RFC 8725, section 3.11).
        if header.has("typ") && header.text("typ") != Ok("JWT") {
            return Err(BadToken::Header("typ"));
        }
        let member = |name| header.text(name).map(str::to_owned).map_err(|_| BadToken::Header(name));
        Ok(Self { algorithm: member("alg")?, kid: member("kid")?, signed, signature, claims: object("payload", &payload)? })
    }

    /// Whose it says it is. Nothing is proven by that: it chooses whose keys must have made it, and no more.
    pub(crate) fn claimed_issuer(&self) -> Result<&str, BadToken> {
        self.claims.text("iss")
    }

    /// The name of the key that should have made it.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// How it says it is signed, where that is one of those that the issuer is believed with.
    ///
    /// # Errors
    /// [`BadToken::Algorithm`].
    pub(crate) fn algorithm(&self, allowed: &[Algorithm]) -> Result<Algorithm, BadToken> {
        let known = Algorithm::of(&self.algorithm).filter(|algorithm| allowed.contains(algorithm));
        known.ok_or_else(|| BadToken::Algorithm(shown(&self.algorithm)))
    }

    /// What it says, when one of `keys` has signed it by one of the `allowed` algorithms.
    ///
    /// # Errors
    /// [`BadToken`]
    pub(crate) fn verify(self, allowed: &[Algorithm], keys: &Keys) -> Result<Claims, BadToken> {
        let algorithm = self.algorithm(allowed)?;
        let kid = || shown(&self.kid);
        let key = keys.get(&self.kid).ok_or_else(|| BadToken::UnknownKey(kid()))?;
        // The key decides what it is for, and not the token (RFC 8725, section 3.1).
        if key.algorithm() != algorithm {
            return Err(BadToken::OtherUse(kid()));
        }
        if key.has_signed(self.signed.as_bytes(), &self.signature) { Ok(self.claims) } else { Err(BadToken::Signature(kid())) }
    }
}

/// A text of a token as it may stand in a line of the log.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).map(|char| if char.is_control() { '?' } else { char }).collect()
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Claims;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Claim>()? {
            // RFC 7519, section 4: one of two, or none; which of two it were would be up to the reader.
            if members.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a member stands twice"));
            }
        }
        Ok(Claims(members))
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Claim;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
        Ok(Claim::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Claim, E> {
        Ok(Claim::Truth(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Claim, E> {
        Ok(Claim::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Claim, E> {
        Ok(i64::try_from(number).map_or(Claim::Other, Claim::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Claim, E> {
        Ok(Claim::Other)
    }

    fn visit_unit<E>(self) -> Result<Claim, E> {
        Ok(Claim::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Claim, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Claim::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claim, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Claim::Other)
    }
}

#[cfg(test)]
mod tests;
