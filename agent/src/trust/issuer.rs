//! Issuers of ID tokens, and what a token of one must say before anybody is believed to be a job of theirs.
//!
//! The claims that all have are judged here (OpenID Connect Core 1.0, sections 2 and 3.1.3.7; RFC 8725, sections 3.8 to 3.10), strictly where the
//! specifications leave room: an audience is one text, a moment is a whole number, and what is needed is never absent. What each kind of CI adds is in
//! [`job`](super::job).

use std::path::PathBuf;

use agent_model::names::HostId;
use aws_lc_rs::digest::{SHA256, digest};

use super::job::{self, CiJob};
use super::jwks::Keys;
use super::jwt::{Algorithm, BadToken, Claims, Jwt};

/// How far two clocks may be apart, in seconds; as for signed requests.
pub(crate) const CLOCK_SKEW: u64 = agent_wire::form::CLOCK_SKEW;
/// The longest that a token may be good, in seconds. GitHub's are good for 5 to 15 minutes; GitLab's for as long as the job may last, which is an
/// hour unless somebody set another time.
pub(crate) const MOST_VALID: u64 = 60 * 60;

/// `[[issuer]]`: somebody who gives jobs ID tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issuer {
    /// `name`: what `oidc:NAME` in a grant says.
    pub name: String,
    /// `kind`
    pub kind: IssuerKind,
    /// `url`: the claim `iss`, to the letter; its discovery document is below it.
    pub url: String,
    /// `ca`: whose certificates its host is believed with, in PEM form; without it, those that this system trusts.
    pub ca: Option<PathBuf>,
    /// `algorithms`
    pub algorithms: Vec<Algorithm>,
    /// `bind`
    pub bind: Bind,
}

/// Which CI: that decides which claims there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IssuerKind {
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
}

impl IssuerKind {
    /// The issuer that most mean.
    pub(crate) fn usual_url(self) -> &'static str {
        match self {
            Self::GitHub => "https://token.actions.githubusercontent.com",
            Self::GitLab => "https://gitlab.com",
        }
    }

    /// The claim with the number of the repository.
    pub(crate) fn number_claim(self) -> &'static str {
        match self {
            Self::GitHub => "repository_id",
            Self::GitLab => "project_id",
        }
    }
}

/// What the audience of a token must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    /// For which host it is.
    Host,
    /// For which host, and for which request: it is good for that one only.
    Body,
}

/// Where and when a token came, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<'a> {
    /// This host.
    pub host: &'a HostId,
    /// The body of the request, to the byte.
    pub body: &'a [u8],
    /// Now, in seconds since 1970 UTC.
    pub now: u64,
}

/// The audience that names one request to one host.
pub(crate) fn audience_of(host: &HostId, body: &[u8]) -> String {
    format!("{host}#sha256={}", hex::encode(digest(&SHA256, body)))
}

impl Issuer {
    /// The address of its discovery document (OpenID Connect Discovery 1.0, section 4).
    pub(crate) fn discovery(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.url)
    }

    /// The job that a token speaks for, when this issuer made it for this host, this moment and, where it names one, this body.
    ///
    /// # Errors
    /// [`BadToken`], the first that applies.
    pub(crate) fn verify(&self, token: Jwt<'_>, keys: &Keys, here: Here<'_>) -> Result<CiJob, BadToken> {
        let claims = token.verify(&self.algorithms, keys)?;
        if claims.text("iss")? != self.url {
            return Err(BadToken::unknown_issuer(claims.text("iss")?));
        }
        self.verify_audience(&claims, here)?;
        verify_time(&claims, here.now)?;
        let id = claims.text("jti")?;
        if id.len() > 256 || id.contains(char::is_control) {
            return Err(BadToken::Claim { claim: "jti", rule: "is longer than 256 bytes, or has control characters" });
        }
        match self.kind {
            IssuerKind::GitHub => job::of_github(&claims, id),
            IssuerKind::GitLab => job::of_gitlab(&claims, id),
        }
    }

    fn verify_audience(&self, claims: &Claims, here: Here<'_>) -> Result<(), BadToken> {
        // A list is refused even when it holds nothing but ours: a token for several is one that each of them could show to the others.
        let audience = claims.text("aud")?;
        let of_this_body = audience == audience_of(here.host, here.body);
        let fits = match self.bind {
            Bind::Host => audience == here.host.as_str() || of_this_body,
            Bind::Body => of_this_body,
        };
        let rule = match (self.bind, audience.split_once('#')) {
            _ if fits => return Ok(()),
            (_, Some((host, _))) if host == here.host.as_str() => "is for another body than this one",
            (Bind::Body, None) if audience == here.host.as_str() => "does not name the body, and the issuer's `bind` wants that",
            _ => "is for another host",
        };
        Err(BadToken::Claim { claim: "aud", rule })
    }
}

fn verify_time(claims: &Claims, now: u64) -> Result<(), BadToken> {
    let (issued, expires) = (claims.moment("iat")?, claims.moment("exp")?);
    let begins = if claims.has("nbf") { claims.moment("nbf")? } else { issued };
    let soon = now.saturating_add(CLOCK_SKEW);
    let bad = |claim, rule| Err(BadToken::Claim { claim, rule });
    if expires.saturating_add(CLOCK_SKEW) <= now {
        return bad("exp", "is past");
    }
    if begins > soon {
        return bad("nbf", "is in the future");
    }
    if issued > soon {
        return bad("iat", "is in the future");
    }
    if expires <= issued || expires - issued > MOST_VALID {
        return bad("exp", "is not within an hour of `iat`");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
